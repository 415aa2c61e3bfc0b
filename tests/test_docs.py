"""The documents tell what the program is: every command, option, setting and column, and examples that run."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from datetime import date
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crawlfleet.cli.main import GROUPS, build_parser
from crawlfleet.model.api_token import Role
from crawlfleet.model.lifecycle import AccountStatus, AssignmentStatus, DeviceStatus, TaskEvent, TaskStatus
from crawlfleet.model.schema import metadata
from crawlfleet.sandbox.server import Sandbox
from crawlfleet.settings.definitions import BASE_URL_VARIABLES, ENVIRONMENT_PREFIX, FIELDS, RULES
from crawlfleet.settings.older_names import OLD_NAMES, OLD_VARIABLES, WITHOUT_EFFECT
from crawlfleet.sources.contract import SourceSettings
from crawlfleet.sources.registry import make_source

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
PAGES = (
    ENGLISH,
    CHINESE,
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
EVERYWHERE = {"--help", "--database", "--config", "--debug"}  # documented once, at the top


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def sections(text: str) -> list[tuple[str, str]]:
    """(heading, body) of each part of a page; code blocks may hold what looks like a heading."""
    fences = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    hidden = "".join(part.replace("\n#", "\n\0#") if part.startswith("```") else part for part in fences)
    parts = re.split(r"^(#+ .*)$", hidden, flags=re.MULTILINE)
    return list(zip(parts[1::2], (part.replace("\0", "") for part in parts[2::2]), strict=True))


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# -- commands and their options


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that runs, with its parser: `tasks add`, `demo`, ..."""
    for group in GROUPS:
        parser = choices_of(build_parser(group))[group]
        yield from leaves(group, parser)


def leaves(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    inner = choices_of(parser)
    if not inner:
        yield path, parser
    for name, each in inner.items():
        yield from leaves(f"{path} {name}", each)


def choices_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The options that --help shows."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return {option for action in shown for option in action.option_strings if option.startswith("--")} - EVERYWHERE


COMMANDS = dict(commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_each_of_its_options_and_no_other(command: str) -> None:
    bodies = [body for heading, body in sections(page("docs/commands.md")) if f"`{command}`" in heading]
    assert len(bodies) == 1, f"docs/commands.md needs one heading with `{command}`"
    told = set(re.findall(r"^\| `(--[a-z-]+)", bodies[0], flags=re.MULTILINE))
    assert told == options_of(COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_says_what_it_does_and_what_each_option_means(command: str) -> None:
    """It showed a list of options only, some of them without a word."""
    parser = COMMANDS[command]
    assert re.fullmatch("[A-Z].*[.]", parser.description or "")
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert [action.option_strings or action.dest for action in shown if not action.help] == []
    assert f"\n{parser.description}"[:40] in parser.format_help()


def test_options_of_every_command_are_told_once() -> None:
    [head] = [body for heading, body in sections(page("docs/commands.md")) if heading == "## Options of every command"]
    assert all(f"`{option}" in head for option in EVERYWHERE)


@pytest.mark.parametrize("name", [name for name in PAGES if name != "CHANGELOG.md"])
def test_every_command_in_a_shell_example_exists(name: str) -> None:
    for line in program_lines(name):
        words = [word for word in line.split() if not word.startswith("-")]
        assert any(" ".join(words[: path.count(" ") + 1]) == path for path in COMMANDS), line


def test_both_readmes_show_the_same_commands_and_the_same_code() -> None:
    assert shell_lines(ENGLISH) == shell_lines(CHINESE)
    assert [code(block) for block in code_blocks(page(ENGLISH), "python")] == [
        code(block) for block in code_blocks(page(CHINESE), "python")
    ]
    assert [level for level, _ in outline(ENGLISH)] == [level for level, _ in outline(CHINESE)]


def shell_lines(name: str) -> list[str]:
    """The lines of all shell examples without their comments."""
    return [line for block in code_blocks(page(name), "sh") for line in code(block).splitlines()]


def code(block: str) -> str:
    lines = (re.sub(r"(^|\s+)#.*$", "", line).rstrip() for line in block.splitlines())
    return "\n".join(line for line in lines if line)


def outline(name: str) -> list[tuple[int, str]]:
    return [(heading.count("#"), heading) for heading, _ in sections(page(name))]


def program_lines(name: str) -> list[str]:
    """What the shell examples give this program, after `python main.py`."""
    found = [re.search(r"(?:python main\.py|^crawlfleet) (.*)", line) for line in shell_lines(name)]
    return [match[1] for match in found if match and not match[1].startswith("--")]


def test_readmes_start_with_the_two_commands_and_tell_the_specified_one() -> None:
    for name in (ENGLISH, CHINESE):
        assert shell_lines(name)[:2] == ["make demo", "make test"]
        assert "python main.py distribute standalone --device-id master-stand-01 &" in shell_lines(name)


# -- settings


def settings_row(name: str) -> str:
    """The first four cells of a setting's row in docs/settings.md."""
    rule, field = RULES[name], FIELDS[name]
    default = "host name" if name == "device_name" else field.default
    if isinstance(default, bool):
        text = str(default).lower()
    elif default in (None, (), MISSING):
        text = "none"
    elif isinstance(default, tuple):
        text = f"`{', '.join(default)}`"
    else:
        text = f"{default:g}" if isinstance(default, float) else str(default)
    variable = "file only" if rule.kind == "table" else f"`{ENVIRONMENT_PREFIX}{name.upper()}`"
    return f"| `{name}` | {text} | {rule.allowed} | {variable} |"


@pytest.mark.parametrize("name", RULES)
def test_every_setting_is_documented_with_its_default_range_and_variable(name: str) -> None:
    [row] = [line for line in page("docs/settings.md").splitlines() if line.startswith(f"| `{name}` |")]
    assert row.startswith(settings_row(name))
    assert len(row) > len(settings_row(name)) + 20, "say what it does"


def test_older_names_are_documented() -> None:
    text = page("docs/settings.md")
    for old, new in OLD_NAMES.items():
        assert re.search(rf"^\| `{old}`.* `{new}`", text, flags=re.MULTILINE), old
    for name in (*WITHOUT_EFFECT, *OLD_VARIABLES, *BASE_URL_VARIABLES):
        assert f"`{name}`" in text or f"`{name.lower()}`" in text, name


# -- the API


def test_every_path_of_the_api_is_documented() -> None:
    pytest.importorskip("fastapi", reason="the extra `api` is not installed")
    from crawlfleet.api.app import make_app

    settings = SimpleNamespace(api_token=None, tls_certificate=None)
    node: Any = SimpleNamespace(settings=settings, listener=None)  # nothing is asked of it
    text = page("docs/api.md")
    for path in (*make_app(node, node).openapi()["paths"], "/docs", "/openapi.json"):
        assert f"`{path}`" in text, path


# -- tables


@pytest.mark.parametrize("table", metadata.tables)
def test_every_table_and_column_is_documented(table: str) -> None:
    [body] = [body for heading, body in sections(page("docs/tables.md")) if f"`{table}`" in heading]
    told = set(re.findall(r"`([a-z_]+)`", "\n".join(re.findall(r"^\| (.*?) \|", body, flags=re.MULTILINE))))
    assert told == {column.name for column in metadata.tables[table].columns}


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("cl_crawl_task", "status", TaskStatus),
        ("cl_task_assignment", "status", AssignmentStatus),
        ("cl_device", "status", DeviceStatus),
        ("cl_account", "status", AccountStatus),
        ("cl_task_event", "event", TaskEvent),
        ("cl_api_token", "role", Role),
    ],
)
def test_every_value_that_a_column_may_have_is_documented(table: str, column: str, values: type[StrEnum]) -> None:
    [body] = [body for heading, body in sections(page("docs/tables.md")) if f"`{table}`" in heading]
    [row] = [line for line in body.splitlines() if re.match(rf"\| .*`{column}`.* \|", line) and "status_" not in line]
    assert [value for value in values if f"`{value}`" not in row] == []


def test_every_action_of_the_audit_is_documented() -> None:
    [body] = [body for heading, body in sections(page("docs/tables.md")) if "`cl_audit`" in heading]
    told = set(re.findall(r"`([a-z]+\.[a-z]+)`", body))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "crawlfleet").rglob("*.py"))
    subjects = {action.split(".")[0] for action in told}
    assert told == set(re.findall(rf'"((?:{"|".join(subjects)})\.[a-z]+)"', code))


def test_the_index_leads_to_every_page() -> None:
    named = {target.split("/")[-1] for target in re.findall(r"\]\(([^)#]+)\)", page("docs/index.md"))}
    assert named >= {name.split("/")[-1] for name in PAGES} - {"index.md"}


# -- examples


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page(name)):
        assert target.startswith("https://") or ((ROOT / name).parent / target).exists(), target


def run_in(folder: Path, script: str, **variables: str) -> str:
    """Output of a shell example, run as written in an empty folder; `python main.py` is this checkout's."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}
    main = f'python() {{ shift; "{sys.executable}" "{ROOT / "main.py"}" "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", main + script],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def block_with(name: str, language: str, text: str) -> str:
    [block] = [block for block in code_blocks(page(name), language) if text in block]
    return block


def test_examples_of_the_secrets_page_run(tmp_path: Path) -> None:
    found = run_in(tmp_path, "\n".join(code_blocks(page("docs/secrets.md"), "sh")))
    assert "account demo_agency at appsflyer added" in found
    assert "account demo_agency at appsflyer changed" in found
    assert "warning" not in found


def test_apple_example_of_the_sources_page_fetches_figures(tmp_path: Path) -> None:
    script = block_with("docs/sources.md", "sh", "--source apple")
    with Sandbox(minute_seconds=0.2) as sandbox:
        found = run_in(tmp_path, script, CRAWLFLEET_APPLE_BASE_URL=sandbox.base_url)
    assert "account 9990001 at apple added" in found
    assert re.search(r"^9990001 +id999000177\d +20\d\d-\d\d-\d\d +us\n +extra: \{", found, flags=re.MULTILINE)


def test_reports_of_the_sources_are_documented() -> None:
    text = page("docs/sources.md")
    for name in make_source("apple", SourceSettings()).reports:
        assert f"`{name}`" in text, name


def test_modules_of_the_executors_page_can_be_loaded(tmp_path: Path) -> None:
    modules = [block for block in code_blocks(page("docs/executors.md"), "python") if "task_executor(" in block]
    assert modules
    for number, text in enumerate(modules):
        (tmp_path / f"example{number}.py").write_text(text, encoding="utf-8")
    names = [f"example{number}" for number in range(len(modules))]
    program = f"from crawlfleet.executors.registry import executors; print(len(executors({names})))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 4 + "".join(modules).count("@crawlfleet.task_executor(")


def test_version_is_the_newest_of_the_changelog() -> None:
    from crawlfleet import __version__

    newest = re.search(r"^## \[?([0-9.]+)\]? - (unreleased|\d{4}-\d\d-\d\d)$", page("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    assert newest[2] == "unreleased" or date.fromisoformat(newest[2])


def test_the_glossary_is_short_and_its_words_are_used() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", page("docs/glossary.md"), flags=re.MULTILINE)
    assert 15 <= len(words) <= 25
    assert words == list(dict.fromkeys(words))
    elsewhere = "".join(page(name) for name in PAGES if name != "docs/glossary.md").lower()
    assert [word for word in words if not re.search(rf"\b{word}", elsewhere)] == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != CHINESE])
def test_lines_of_prose_are_no_longer_than_those_of_code(name: str) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.split("\n") if len(line) > 120 and not line.startswith("|")] == []


def test_the_map_of_the_code_names_what_is_there() -> None:
    """Paths such as `model/ledger.py` in ARCHITECTURE.md lead to files and folders of the package."""
    rooms = {path.name for path in (ROOT / "crawlfleet").iterdir() if path.is_dir()}
    named = re.findall(r"`([a-z_]+(?:/[a-z_*]+)+(?:\.py|/)?)`", page("ARCHITECTURE.md"))
    paths = [name for name in named if name.split("/")[0] in rooms]
    assert len(paths) > 15
    missing = [name for name in paths if not list((ROOT / "crawlfleet").glob(name.rstrip("/") + "*"))]
    assert missing == []
