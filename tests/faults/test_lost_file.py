"""An SQLite file, or the log beside it, that is removed under a running node."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable
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


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which open files were deleted")


def _write(db: Database) -> None:
    db.write(lambda transaction: transaction.execute(sql("UPDATE cl_fleet_state SET value = value")).rowcount)


def _remove_log(file: Path) -> None:
    for ending in ("wal", "shm"):
        file.with_name(f"{file.name}-{ending}").unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("befall", "told"),
    [
        pytest.param(_remove_log, "lost its crawlfleet.db-wal, which was removed or replaced", marks=LINUX),
        (_empty, "was emptied while it was in use"),
    ],
)
def test_a_node_whose_file_is_there_but_no_longer_whole_ends(
    tmp_path: Path, befall: Callable[[Path], None], told: str
) -> None:
    """The main file was still there, so the node worked on in the deleted log: for others its tasks stayed open."""
    url = sqlite_url_with_tables(tmp_path / "crawlfleet.db")
    with NodeProcess(tmp_path, url, CRAWLFLEET_SCHEDULE_INTERVAL="0.2") as node:
        node.wait_started()
        befall(tmp_path / "crawlfleet.db")
        assert node.wait(30) == 3, node.log
    assert node.log.count("[ERROR]") == 1, node.log
    assert told in node.log


@LINUX
def test_a_log_that_was_replaced_is_noticed_for_good(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    db = Database(sqlite_url_with_tables(file)).open()
    _write(db)
    log = tmp_path / "a.db-wal"
    shutil.copyfile(log, tmp_path / "copy")
    (tmp_path / "copy").replace(log)
    with pytest.raises(DatabaseUnreachable, match=r"a.db lost its a.db-wal, .* start again"):
        _write(db)
    db.close()
    assert db.is_gone


def test_a_log_that_comes_and_goes_by_itself_is_no_trouble(tmp_path: Path) -> None:
    """SQLite makes it when it is needed, and the last connection of all processes removes it."""
    file = tmp_path / "a.db"
    db = Database(sqlite_url_with_tables(file))
    for _ in range(3):
        db.open()
        _write(db)
        other = sqlite3.connect(file)
        other.execute("SELECT COUNT(*) FROM cl_fleet_state").fetchone()
        db.close()
        assert (tmp_path / "a.db-wal").exists()
        other.close()
        assert not (tmp_path / "a.db-wal").exists()
        assert not db.is_gone


def test_a_database_that_somebody_forgot_to_close_is_not_taken_for_the_new_one_of_its_path(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    former = Database(sqlite_url_with_tables(file)).open()
    _write(former)
    for each in tmp_path.glob("a.db*"):
        each.unlink()
    db = Database(sqlite_url_with_tables(file)).open()
    _write(db)
    assert (former.is_gone, db.is_gone) == (True, False)
    db.close()
    former.close()


def test_a_file_that_was_emptied_is_named_as_such(tmp_path: Path) -> None:
    """It was reported as a database without tables, or as malformed, once for each thing that a node does."""
    file = tmp_path / "a.db"
    db = Database(sqlite_url_with_tables(file)).open()
    file.write_bytes(b"")
    with pytest.raises(DatabaseUnreachable, match=r"was emptied while it was in use: .* put a backup in its place"):
        _write(db)
    db.close()


def test_a_new_file_is_not_taken_for_an_emptied_one(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/new.db").open()
    assert not db.is_gone
    db.write(lambda transaction: transaction.execute(sql("CREATE TABLE t (a INTEGER)")).rowcount)
    assert not db.is_gone
    db.close()
