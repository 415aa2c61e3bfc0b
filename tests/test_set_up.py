"""What `make setup` rests on: the choice of an interpreter, pins, and a Makefile that explains itself."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKE_VENV = ROOT / "scripts" / "make-venv"


def fake_python(folder: Path, name: str, new_enough: bool = True, has_venv: bool = True) -> None:
    """An interpreter that answers the script's questions and notes in `made` what it is told to make."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(
        f"""#!/bin/sh
case "$*" in
    *version_info*) exit {0 if new_enough else 1} ;;
    *ensurepip*) exit {0 if has_venv else 1} ;;
    --version) echo Python 3.x ;;
    *) echo "{name} $*" >> "{folder}/made" ;;
esac
"""
    )
    program.chmod(0o755)


def make_venv(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "bin").mkdir(exist_ok=True)
    return subprocess.run(
        ["/bin/sh", MAKE_VENV, *arguments],
        cwd=folder,
        env={"PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def made(folder: Path) -> str:
    return (folder / "bin" / "made").read_text()


def test_first_python_that_is_new_enough_makes_the_venv(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3.13", new_enough=False)  # a shim of a version that is not active
    fake_python(tmp_path / "bin", "python3.12", has_venv=False)
    fake_python(tmp_path / "bin", "python3.11")
    fake_python(tmp_path / "bin", "python3")
    assert make_venv(tmp_path, ".venv").returncode == 0
    assert made(tmp_path) == "python3.11 -m venv --clear .venv\n"


def test_python_that_is_asked_for_is_used(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3.13")
    fake_python(tmp_path / "bin", "mine")
    assert make_venv(tmp_path, ".venv", "mine").returncode == 0
    assert made(tmp_path) == "mine -m venv --clear .venv\n"


def test_working_venv_is_kept(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3")
    (tmp_path / ".venv").mkdir()
    fake_python(tmp_path / ".venv" / "bin", "python")
    assert make_venv(tmp_path, ".venv").returncode == 0
    assert not (tmp_path / "bin" / "made").exists()


def test_missing_python_is_named(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", new_enough=False)
    result = make_venv(tmp_path, ".venv")
    assert result.returncode == 1
    assert "no Python 3.11 or newer" in result.stderr
    assert "make setup PYTHON=" in result.stderr


def test_missing_venv_module_names_the_package_to_install(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", has_venv=False)
    result = make_venv(tmp_path, ".venv")
    assert result.returncode == 1
    assert "apt-get install python3-venv" in result.stderr


def test_every_dependency_is_pinned_and_no_address_is_given() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for names in project["optional-dependencies"].values() for name in names)]
    constraints = (ROOT / "constraints.txt").read_text()
    pins = [line for line in constraints.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.+]+", pin) for pin in pins)
    pinned = {canonical(pin.split("==")[0]) for pin in pins}
    missing = {canonical(re.split(r"[\[<>=]", name)[0]) for name in asked} - pinned - {"crawlfleet"}
    assert not missing


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_explains_every_target() -> None:
    text = subprocess.run(
        ["make", "--no-print-directory", "-C", ROOT], capture_output=True, text=True, check=True
    ).stdout
    targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())
    assert targets is not None
    assert re.findall(r"^make ([\w-]+) +\S", text, re.MULTILINE) == targets[1].split()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_ci_works_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "make").write_text('#!/bin/sh\necho "$PWD $*"\n')
    (tmp_path / "make").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        [ROOT / ".ci" / "run"], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{ROOT} test\n"
