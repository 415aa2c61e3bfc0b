"""What deploy/ promises, as far as it can be tried without systemd and without containers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from crawlfleet.cli.main import build_parser
from crawlfleet.services.task_scheduler import FLUSH_SECONDS
from crawlfleet.settings.definitions import Settings
from crawlfleet.settings.layers import load_settings

ROOT = Path(__file__).parent.parent
UNIT = (ROOT / "deploy/crawlfleet@.service").read_text()
PROGRAM = "/opt/crawlfleet/bin/crawlfleet"


def value(name: str) -> str:
    [found] = re.findall(rf"^{name}=(.*)$", UNIT, flags=re.MULTILINE)
    return str(found)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    assert value("ExecStart").startswith(PROGRAM)
    unit = tmp_path / "crawlfleet@a.service"
    unit.write_text(UNIT.replace(PROGRAM, "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_the_unit_starts_a_command_that_exists() -> None:
    arguments = build_parser("distribute").parse_args(value("ExecStart").split()[1:])
    assert arguments.config == "/etc/crawlfleet/crawlfleet.toml"


def test_a_stopping_node_is_not_killed_before_its_grace_is_over() -> None:
    grace = Settings().shutdown_grace + 4 * FLUSH_SECONDS
    assert int(value("TimeoutStopSec")) >= grace
    compose = (ROOT / "deploy/compose.yaml").read_text()
    [seconds] = re.findall(r"stop_grace_period: (\d+)s", compose)
    assert int(seconds) >= grace


def test_the_secrets_in_the_example_are_settings_or_keys() -> None:
    text = (ROOT / "deploy/crawlfleet.env.example").read_text()
    environ = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, flags=re.MULTILINE))
    settings = load_settings(environ={**environ, "CRAWLFLEET_API_TOKEN": "some-token-with-more-than-32-characters"})
    assert settings.notices == ()
    assert settings.database_url == environ["CRAWLFLEET_DATABASE_URL"]


def test_the_image_installs_an_extra_that_exists_and_starts_a_command_that_exists() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    [extra] = re.findall(r'"/src\[(.*)\]"', text)
    assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert 'ENTRYPOINT ["crawlfleet"]\nCMD ["distribute", "worker"]\n' in text
    build_parser("distribute").parse_args(["distribute", "worker"])
    for name in re.findall(r"^!(.*)$", (ROOT / "deploy/Dockerfile.dockerignore").read_text(), flags=re.MULTILINE):
        assert (ROOT / name).exists()
