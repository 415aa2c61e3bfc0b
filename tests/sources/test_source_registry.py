"""Sources by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.model.task_spec import DEFAULT_REPORT
from crawlfleet.sources import registry
from crawlfleet.sources.appsflyer.source import AppsFlyer
from crawlfleet.sources.contract import SourceSettings


def offer(monkeypatch, **values):
    points = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_the_built_in_source_is_made_from_its_settings():
    source = registry.make_source("appsflyer", SourceSettings(base_url="http://127.0.0.1:1"))
    assert isinstance(source, AppsFlyer)
    with pytest.raises(UsageError, match="loopback"):
        registry.make_source("appsflyer", SourceSettings(base_url="http://10.0.0.1"))


def test_an_unknown_source_is_wrong_usage_that_lists_the_known_ones(monkeypatch):
    offer(monkeypatch, other="collections:OrderedDict")
    with pytest.raises(UsageError, match="unknown source 'apsflyer': known are apple, appsflyer, other"):
        registry.make_source("apsflyer", SourceSettings())


def test_a_source_of_another_package_is_found_by_its_entry_point(monkeypatch):
    offer(monkeypatch, other="builtins:repr")
    settings = SourceSettings(proxy="http://127.0.0.1:3128")
    assert registry.make_source("other", settings) == repr(settings)


def test_an_entry_point_that_cannot_be_loaded_is_wrong_usage(monkeypatch):
    offer(monkeypatch, other="no_such_module:thing")
    with pytest.raises(UsageError, match="no_such_module"):
        registry.make_source("other", SourceSettings())


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_key_that_no_source_reads_is_wrong_usage(name):
    with pytest.raises(UsageError, match=r"reprots is unknown: known are .*base_url"):
        registry.make_source(name, SourceSettings(options={"reprots": 1}))


def test_the_default_report_is_the_first_one_of_a_built_in_source():
    assert registry.default_report("appsflyer") == DEFAULT_REPORT
    assert registry.default_report("apple") == "app_details"
    assert registry.default_report("other") is None


def test_a_source_that_fetches_nothing_never_loads_the_http_library():
    program = (
        "import sys; from crawlfleet.sources.registry import make_source;"
        "from crawlfleet.sources.contract import SourceSettings;"
        "[make_source(name, SourceSettings()) for name in ('appsflyer', 'apple')]; sys.exit('httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
