"""An SQLite file that is removed under a running node."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.sql import sql
from tests.nodes import NodeProcess
from tests.templates import sqlite_url_with_tables


def test_a_node_whose_file_was_removed_ends_instead_of_writing_where_nobody_reads(tmp_path: Path) -> None:
    """The node went on for ever and reported tasks of a deleted file as completed."""
    file = tmp_path / "crawlfleet.db"
    url = sqlite_url_with_tables(file)
    with NodeProcess(tmp_path, url, CRAWLFLEET_SCHEDULE_INTERVAL="0.2") as node:
        node.wait_started()
        for each in tmp_path.glob("crawlfleet.db*"):
            each.unlink()
        assert node.wait(30) == 3, node.log
    assert node.log.count("[ERROR]") == 1, node.log
    assert "was removed or replaced while it was in use" in node.log
    assert not file.exists()


def test_a_file_that_was_replaced_is_not_taken_for_the_one_that_was_opened(tmp_path: Path) -> None:
    """A backup put in its place is another file, which nobody reads as long as the old one is open."""
    file = tmp_path / "a.db"
    db = Database(sqlite_url_with_tables(file)).open()
    shutil.copyfile(file, tmp_path / "b.db")
    (tmp_path / "b.db").replace(file)
    with pytest.raises(DatabaseUnreachable, match="put the file back and start again"):
        db.write(lambda transaction: transaction.execute(sql("SELECT 1")).scalar())
    db.close()
