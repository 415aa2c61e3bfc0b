"""Engines are found by name; those of other packages by entry points."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.engines import registry
from crawlfleet.engines.contract import Reports, Run, Slots
from crawlfleet.engines.registry import EngineRequest, Engines, make_engines
from crawlfleet.engines.threads import ThreadsEngine
from crawlfleet.model.ending import Outcome
from crawlfleet.settings.layers import load_settings

ROOT = Path(__file__).parents[2]


def request(**more: object) -> EngineRequest:
    reports = Reports(lambda run: None, lambda run, outcome: None)
    return EngineRequest(Slots(2), reports, 2, 1, (), has_coroutines=True, **more)  # type: ignore[arg-type]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a package offer an engine."""

    def make(name: str, value: str) -> None:
        point = EntryPoint(name, value, "crawlfleet.engines")
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == point.group else [])

    return make


def test_bodies_that_are_awaited_have_an_engine_of_their_own_only_when_there_are_some() -> None:
    engines = make_engines("threads", request())
    assert isinstance(engines.plain, ThreadsEngine)
    assert engines.coroutines is not engines.plain
    no_coroutines = EngineRequest(Slots(1), request().reports, 1, 1, (), has_coroutines=False)
    assert len(set(make_engines("threads", no_coroutines))) == 1


def test_the_engine_for_dask_is_offered_by_this_package() -> None:
    engines = make_engines("dask", request(address="tcp://127.0.0.1:1"))
    assert type(engines.plain).__name__ == "DaskEngine"
    assert engines.plain is engines.coroutines


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown engine 'fog': known are dask, processes, threads"):
        make_engines("fog", request())
    with pytest.raises(
        UsageError, match=r"engine must be one of threads, processes, dask \(got 'fog' from option --engine\)"
    ):
        load_settings(overrides={"device_id": "d", "engine": "fog"}, environ={})


def test_an_engine_that_cannot_be_loaded_says_why(offer: Callable[[str, str], None]) -> None:
    offer("fog", "no_such_module:make")
    with pytest.raises(UsageError, match=r"engine 'fog' \(no_such_module:make\) cannot be loaded: No module named"):
        make_engines("fog", request())


def test_the_documented_engine_of_ones_own_runs_a_body(
    offer: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "EngineRequest" in block]
    module = types.ModuleType("my_engine")
    exec(example, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_engine", module)
    offer("inline", "my_engine:make")
    assert load_settings(overrides={"device_id": "d", "engine": "inline"}, environ={}).engine == "inline"

    from crawlfleet.executors.contract import TaskContext
    from crawlfleet.executors.registry import executors
    from crawlfleet.model.task_spec import Task
    from tests.engines.stage import MODULES
    from tests.waiting import wait_until

    said: list[str] = []
    ended: list[Outcome] = []
    reports = Reports(lambda run: said.append("began"), lambda run, outcome: ended.append(outcome))
    engines: Engines = make_engines("inline", EngineRequest(Slots(1), reports, 1, 1, (), has_coroutines=False))
    task = Task(1, "noop")
    run = Run(1, task, executors(MODULES)["noop"], TaskContext(task))
    engines.plain.start()
    engines.plain.submit([run])
    wait_until(lambda: ended)
    assert (said, [outcome.kind for outcome in ended]) == (["began"], ["ok"])
    assert engines.plain.interrupt(run) is False
    engines.plain.stop()
