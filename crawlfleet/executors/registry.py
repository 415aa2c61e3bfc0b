"""Which executors exist: built-in ones, those of entry points, and those of modules that the user names."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import stat
import sys
import traceback
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from crawlfleet.core.errors import UsageError
from crawlfleet.executors.contract import Executor
from crawlfleet.model.task_spec import NAME_PATTERN, Task, TaskSpec
from crawlfleet.sources.contract import Shape, Source

F = TypeVar("F", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "crawlfleet.executors"
ALIKE = 0.85  # of two names of task types, from which on one is taken for a slip of the pen
ALIASES = {"app_sync": "user_apps", "data_sync": "app_data"}  # as older documents call them

_registered: dict[str, Executor] = {}
_modules_with_executors: set[str] = set()  # imported before: they register nothing a second time


def task_executor(
    name: str,
    *,
    needs_account: bool = False,
    check: Callable[[Task], None] | None = None,
    cost: Callable[[TaskSpec, Source], Shape] | None = None,
    transient: Iterable[type[BaseException]] = (),
) -> Callable[[F], F]:
    """Decorator that makes a function, plain or `async def`, the executor of a task type.

    Returns the function unchanged. The options are those of `Executor`. Raises UsageError for a name that is taken, or
    that cannot be a task type: 1 to 64 of A-Z a-z 0-9 _ . : -
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise UsageError(f"@task_executor needs a task type of 1 to 64 of A-Z a-z 0-9 _ . : - (got {name!r:.80})")

    def register(function: F) -> F:
        _register(_registered, Executor(name, function, needs_account, check, cost, tuple(transient)))
        return function

    return register


def executors(modules: Iterable[str] = ()) -> dict[str, Executor]:
    """Every executor by its task type, older names included. Loads entry points and `modules` first.

    Raises UsageError for a module or entry point that cannot be loaded, and for two executors of one name.
    """
    from crawlfleet.executors.app_data import APP_DATA
    from crawlfleet.executors.user_apps import USER_APPS

    load_executor_modules(modules)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _load_entry_point(point)
    by_type = {executor.name: executor for executor in (USER_APPS, APP_DATA)}
    by_type |= {alias: by_type[name] for alias, name in ALIASES.items()}
    for executor in _registered.values():
        _register(by_type, executor)
    return by_type


def near_miss(name: str, known: Collection[str]) -> str | None:
    """The known task type that `name` misspells; None when it is known itself or resembles none.

    Names that differ in their numbers are no misspellings.
    """

    def letters(text: str) -> str:
        return re.sub(r"[\d_.:-]+", "", text).lower()

    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=ALIKE)
    close += [each for each in sorted(known) if letters(each) == letters(name)]
    found = close[0] if close and name not in known else None
    numbers = re.compile(r"\d+")
    return None if found is None or numbers.findall(found) != numbers.findall(name) else found


def load_executor_modules(modules: Iterable[str]) -> None:
    """Import modules, also from the working directory, so that their @task_executor functions are known.

    A file there never replaces an installed package. When others can write to the working directory, nothing is
    imported from it.

    Raises UsageError for a module that is missing, broken or without executors; its message names module, cause and
    place.
    """
    modules = tuple(modules)
    if modules and os.getcwd() not in sys.path and not _others_write_here():
        sys.path.append(os.getcwd())
    for module in modules:
        before = set(_registered)
        _import(module)
        if not (set(_registered) - before or module in _modules_with_executors or _has_registered(module)):
            raise UsageError(
                f"executors module {module} registers nothing: decorate a function of it with "
                '@crawlfleet.task_executor("name")'
            )
        _modules_with_executors.add(module)


def _others_write_here() -> bool:
    return os.name == "posix" and bool(os.stat(os.getcwd()).st_mode & stat.S_IWOTH)


def _register(registry: dict[str, Executor], executor: Executor) -> None:
    earlier = registry.setdefault(executor.name, executor)
    if earlier is not executor and _identity(earlier) != _identity(executor):
        raise UsageError(
            f"task type {executor.name!r} has two executors, {_place(earlier)} and {_place(executor)}: rename one"
        )
    registry[executor.name] = executor


def _identity(executor: Executor) -> object:
    """Equal for one function of one file, even when its module was imported twice or reloaded."""
    code = getattr(executor.function, "__code__", None)
    return executor.function if code is None else (code.co_filename, code.co_firstlineno, code.co_qualname)


def _place(executor: Executor) -> str:
    code = getattr(executor.function, "__code__", None)
    if code is None:
        return repr(executor.function)
    return f"{executor.function.__module__}.{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"


def _has_registered(module: str) -> bool:
    owners = {getattr(executor.function, "__module__", "") for executor in _registered.values()}
    return any(owner == module or owner.startswith(f"{module}.") for owner in owners)


def _import(module: str) -> None:
    if module.startswith("."):
        raise UsageError(f"executors module {module} is a path or a relative name: give its whole name, like my_tasks")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            hint = ""
            if module.endswith(".py") or os.sep in module:
                name = module.removesuffix(".py").replace(os.sep, ".")
                hint = f": give its module name, like {name}"
            elif _others_write_here():
                hint = f": {os.getcwd()} was left out, since others can write there (chmod o-w, or set PYTHONPATH)"
            raise UsageError(f"executors module {module} was not found in {os.getcwd()} or on sys.path{hint}") from None
        raise _broken(f"executors module {module}", error) from None
    except UsageError as error:
        raise UsageError(f"executors module {module}: {error}") from None
    except (Exception, SystemExit) as error:
        raise _broken(f"executors module {module}", error) from None


def _broken(what: str, error: BaseException) -> UsageError:
    cause = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    return UsageError(f"{what} cannot be imported: {cause}{_where(error)}")


def _where(error: BaseException) -> str:
    """The place of the fault as ` (file:line)`, or nothing.

    That is the line of a syntax error, else the last line in the working directory, else the first that is not ours.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in {__file__, importlib.__file__} and not frame.filename.startswith("<")
    ]
    if not frames:
        return ""
    own = [frame for frame in frames if frame.filename.startswith(os.getcwd() + os.sep)]
    frame = own[-1] if own else frames[0]
    return f" ({frame.filename}:{frame.lineno})"


def _load_entry_point(point: EntryPoint) -> None:
    """Load an entry point: a module that registers its executors, or a function.

    A function that does not register itself gets the entry point's name. Raises UsageError for what cannot be imported.
    """
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:
        raise _broken(f"entry point {point.name} = {point.value}", error) from None
    if callable(loaded) and all(executor.function is not loaded for executor in _registered.values()):
        task_executor(point.name)(loaded)
