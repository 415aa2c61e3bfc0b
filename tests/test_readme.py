"""The README works as a newcomer reads it: every command, in order, in one terminal, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from crawlfleet.settings.definitions import ENVIRONMENT_PREFIX
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# (?P<name>\w+\.py)\n")  # the first line of code that the reader is to save
SANDBOX_PORT = "8900"  # as the pages have it
LONGEST_SECONDS = 300.0  # some 15 on a machine that has nothing else to do


@dataclass(frozen=True)
class Block:
    """A piece of code of a page; `why_not` says why nobody can run it as it is."""

    language: str
    code: str
    why_not: str | None


def blocks(name: str) -> list[Block]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [Block(found["language"], found["code"], found["why"]) for found in BLOCK.finditer(text)]


def one_terminal(folder: Path, script: str) -> str:
    """What a shell prints that gets these lines; what it left in the background is ended afterwards.

    The lines fail at the first one that fails, and as a whole when one does not give the terminal back.
    """
    aside = folder.parent / "bin"
    aside.mkdir()
    (aside / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}
    output = folder.parent / "output"
    with output.open("wb") as stream:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=folder,
            env={**inherited, "PATH": f"{aside}:{os.environ['PATH']}", "CRAWLFLEET_PORT": str(free_port())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    code: int | None = None
    try:
        code = shell.wait(LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        os.killpg(shell.pid, signal.SIGTERM if code is not None else signal.SIGKILL)
        shell.wait()
    said = output.read_text(encoding="utf-8", errors="replace")
    assert code == 0, f"exit code {code} after:\n{said[-6000:]}"
    return said


def saved_files(name: str) -> Iterator[tuple[str, str]]:
    for block in blocks(name):
        if block.language == "python" and block.why_not is None:
            match = FILE.match(block.code)
            assert match is not None, f"say in the first line where to save it:\n{block.code}"
            yield match["name"], block.code


@pytest.mark.parametrize("name", READMES)
def test_the_page_works_line_by_line_in_one_terminal(name: str, fresh_copy: Path) -> None:
    """A node in the foreground kept the terminal from its reader, and took the tasks without the token set later."""
    for file, code in saved_files(name):
        (fresh_copy / file).write_text(code, encoding="utf-8")
    port = str(free_port())
    script = "\n".join(each.code for each in blocks(name) if each.language == "sh" and each.why_not is None)
    assert SANDBOX_PORT in script
    assert "python main.py sandbox" in script
    script = script.replace(SANDBOX_PORT, port).replace("main.py sandbox", f"main.py sandbox --port {port}")

    said = one_terminal(fresh_copy, script)

    assert "account demo_agency at appsflyer added" in said
    assert "is not set on this node" not in said
    assert "Standalone node started" in said
    assert re.search(r"^demo_agency +\S+ +2026-01-0\d ", said, flags=re.MULTILINE)  # data rows
    with closing(sqlite3.connect(fresh_copy / "crawlfleet.db")) as file:
        tasks = file.execute("SELECT task_type, status, COUNT(*) FROM cl_crawl_task GROUP BY 1, 2").fetchall()
        assert {state for kind, state, _ in tasks if kind in ("user_apps", "app_data")} == {"completed"}
        assert {state: count for kind, state, count in tasks if kind == "greet"} == {"completed": 1, "pending": 3}
        for query in (each.code for each in blocks(name) if each.language == "sql" and each.why_not is None):
            assert file.execute(query).fetchall()


def test_both_pages_show_the_same_blocks_and_leave_out_the_same() -> None:
    english, chinese = ([(each.language, each.why_not is None) for each in blocks(name)] for name in READMES)
    assert english == chinese
    assert all(each.why_not is None or each.language == "sh" for name in READMES for each in blocks(name))


def test_the_chinese_page_marks_english_pages_and_speaks_as_a_colleague_would() -> None:
    """Links led to English pages without a word, and some phrases were English in Chinese signs."""
    text = (ROOT / READMES[1]).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+\.md)\)(.{0,4})", text)
    assert [target for target, after in links if target != READMES[0] and after != "（英文）"] == []
    assert len(links) > 20
    stiff = ("不认识", "等人处理", "空闲能力", "拉截至", "令牌")
    assert [words for words in stiff if words in text] == []
