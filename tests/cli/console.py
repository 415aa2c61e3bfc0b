"""The program as a user sees it, in this process: arguments in, exit code and both streams out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from crawlfleet.cli.main import main
from crawlfleet.core.db import Database

T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """What one command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Console:
    """Runs commands on one database; a traceback or a second line of an error fails the test."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, *argv: object, stdin: bytes | None = None) -> Said:
        words = [str(word) for word in argv]
        self._capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            if stdin is not None:
                patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            code = main([*words, "--database", self.url])
        said = Said(code, *self._capsys.readouterr())
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err.replace("unexpected argument", "")
        return said

    def refuses(self, code: int, *argv: object, stdin: bytes | None = None) -> str:
        """The one error line of a command that must end with this code and print no result."""
        said = self(*argv, stdin=stdin)
        assert (said.code, said.out) == (code, ""), said
        lines = said.err.splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1].removeprefix("error: ")

    def add(self, *options: object) -> int:
        """The id of a task that these options add."""
        [task_id] = self("tasks", "add", *options, "--json").json["ids"]
        return int(task_id)

    def on_database(self, work: Callable[[Database], T]) -> T:
        """What `work` returns on the same database, for what no command can do."""
        with closing(Database(self.url).open()) as db:
            return work(db)
