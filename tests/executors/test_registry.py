"""Finding executors: by decorator, module, entry point and alias; every refusal says what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawlfleet.core.errors import UsageError
from crawlfleet.executors import registry
from crawlfleet.executors.registry import executors, load_executor_modules, task_executor

WriteModule = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_modules_with_executors", set())


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Writes modules into a working directory of their own; they are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


NOOP = """from crawlfleet.executors.registry import task_executor

@task_executor("noop")
def noop(task, context):
    return {"seen": 1}
"""


def test_the_decorator_returns_plain_and_async_functions_unchanged() -> None:
    def plain(task: object, context: object) -> None: ...

    async def coroutine(task: object, context: object) -> None: ...

    assert task_executor("plain")(plain) is plain
    assert task_executor("coroutine", needs_account=True)(coroutine) is coroutine
    found = executors()
    assert (found["plain"].asynchronous, found["plain"].needs_account) == (False, False)
    assert (found["coroutine"].asynchronous, found["coroutine"].needs_account) == (True, True)


def test_built_in_types_are_found_under_their_older_names_too() -> None:
    found = executors()
    assert found["app_sync"] is found["user_apps"]
    assert found["data_sync"] is found["app_data"]


def test_a_module_of_the_working_directory_is_loaded(write_module: WriteModule) -> None:
    assert executors([write_module("my_tasks", NOOP)])["noop"].function(None, None) == {"seen": 1}


def test_loading_a_module_again_changes_nothing(write_module: WriteModule) -> None:
    module = write_module("my_tasks", NOOP)
    executors([module, module])
    importlib.reload(sys.modules[module])
    del sys.modules[module]
    assert "noop" in executors([module])


def test_two_functions_of_one_name_are_refused_with_both_places(write_module: WriteModule) -> None:
    modules = [write_module("first_tasks", NOOP), write_module("second_tasks", NOOP)]
    with pytest.raises(UsageError) as raised:
        load_executor_modules(modules)
    assert "task type 'noop' has two executors" in str(raised.value)
    assert "first_tasks.py:3" in str(raised.value)
    assert "second_tasks.py:3" in str(raised.value)


def test_a_built_in_name_is_taken() -> None:
    task_executor("app_sync")(lambda task, context: None)
    with pytest.raises(UsageError, match="task type 'app_sync' has two executors"):
        executors()


@pytest.mark.parametrize("name", ["", "with space", "x" * 65, None, len])
def test_a_name_that_cannot_be_a_task_type_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match="needs a task type"):
        task_executor(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError: invalid syntax ({path}:1)"),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero ({path}:2)"),
        ("import json\njson.loads('x')\n", "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ({path}:2)"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' ({path}:1)"),
        ("import sys\nsys.exit(4)\n", "SystemExit: 4 ({path}:2)"),
        ("x = 1\n", 'registers nothing: decorate a function of it with @crawlfleet.task_executor("name")'),
    ],
)
def test_a_broken_module_is_refused_with_cause_and_place(
    write_module: WriteModule, tmp_path: Path, text: str, said: str
) -> None:
    module = write_module("broken_tasks", text)
    with pytest.raises(UsageError) as raised:
        load_executor_modules([module])
    assert str(raised.value).startswith("executors module broken_tasks ")
    assert said.format(path=tmp_path / "broken_tasks.py") in str(raised.value)
    assert raised.value.exit_code == 2
    assert raised.value.__suppress_context__ or raised.value.__context__ is None, "no traceback of the cause"


def test_a_missing_module_is_refused_with_the_folder_that_was_searched(
    write_module: WriteModule, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no_such_tasks was not found") as raised:
        load_executor_modules(["no_such_tasks"])
    assert str(tmp_path) in str(raised.value)


def test_a_file_name_is_answered_with_the_module_name(write_module: WriteModule) -> None:
    write_module("my_tasks", NOOP)
    with pytest.raises(UsageError, match="give its module name, like my_tasks"):
        load_executor_modules(["my_tasks.py"])


@pytest.mark.parametrize("name", ["../my_tasks", ".my_tasks", "."])
def test_a_relative_name_is_refused(write_module: WriteModule, name: str) -> None:
    write_module("my_tasks", NOOP)
    with pytest.raises(UsageError, match=f"module {re.escape(name)} is a path or a relative name: .* like my_tasks"):
        load_executor_modules([name])


def entry_point(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = importlib.metadata.EntryPoint("offered", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


def test_an_entry_point_may_name_a_module(write_module: WriteModule, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point(monkeypatch, write_module("offered_tasks", NOOP))
    sys.path.append(os.getcwd())  # an installed package is on it
    found = executors()
    assert "noop" in found
    assert "offered" not in found


def test_an_entry_point_may_name_a_function(write_module: WriteModule, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module("offered_tasks", NOOP + "def bare(task, context):\n    return None\n")
    sys.path.append(os.getcwd())
    entry_point(monkeypatch, "offered_tasks:noop")
    assert "offered" not in executors(), "it registered itself"
    entry_point(monkeypatch, "offered_tasks:bare")
    assert "offered" in executors()


def test_a_broken_entry_point_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_point(monkeypatch, "no_such_package.tasks")
    with pytest.raises(UsageError, match=r"entry point offered = no_such_package\.tasks cannot be imported"):
        executors()


def test_a_file_in_the_working_directory_stands_in_for_no_installed_package(
    write_module: WriteModule, tmp_path: Path
) -> None:
    """A file `httpx2.py` where the node was started became the program's HTTP client, with every token."""
    load_executor_modules([])
    assert str(tmp_path) not in sys.path
    write_module("fractions", "raise SystemExit('not the standard library')")
    write_module("own_tasks", NOOP.replace("noop", "beside") + "\nimport fractions\n")
    load_executor_modules(["own_tasks"])
    assert sys.path[-1] == str(tmp_path)


def test_nothing_is_imported_from_a_folder_that_others_can_write(write_module: WriteModule, tmp_path: Path) -> None:
    write_module("shared_tasks", NOOP)
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match=r"was left out, since others can write there"):
        load_executor_modules(["shared_tasks"])
