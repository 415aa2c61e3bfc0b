"""An SQLite file in use: whether it, and the log beside it with the latest commits, are those that were opened."""

from __future__ import annotations

import os

from sqlalchemy.engine import URL

DESCRIPTORS = "/proc/self/fd"  # of this process, as Linux has them: links to what is open


class SqliteFile:
    """The file of a database. `trouble` says why what is written to it nobody will ever read."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._id: tuple[int, int] | None = None  # device and inode, once it was opened
        self._log_id: tuple[int, int] | None = None  # of the log, when it was last known to be ours
        self._log_is_lost = False
        self._had_content = False

    @classmethod
    def of(cls, url: URL) -> SqliteFile | None:
        """The file of the URL; None where it has SQLite's own form, which may say more than a path."""
        return None if (url.database or "").startswith("file:") else cls(url.database or "")

    def opened(self) -> None:
        """Remember which file it is: a connection has just opened it."""
        if self._id is None and (found := _stat(self._path)) is not None:
            self._id, self._had_content = _id_of(found), found.st_size > 0

    @property
    def trouble(self) -> str | None:
        """What happened to the file and what to do, None while all is well. Cheap: two calls of the system."""
        if self._id is None:
            return None
        found = _stat(self._path)
        if found is None or _id_of(found) != self._id:
            return "was removed or replaced while it was in use: stop what uses it, put the file back and start again"
        if found.st_size == 0 and self._had_content:
            return "was emptied while it was in use: stop what uses it, put a backup in its place and start again"
        self._had_content = self._had_content or found.st_size > 0
        if self._lost_its_log():
            return (
                f"lost its {os.path.basename(self._path)}-wal, which was removed or replaced while it was in use and"
                " held the latest commits: stop what uses the database and start again; see with `db check` and"
                " `tasks list` what is left, or restore a backup"
            )
        return None

    def _lost_its_log(self) -> bool:
        """Whether a log is open here that is no longer at its path; once so, for good.

        SQLite makes the log with the first use and removes it with the last one, so it may well be another one now,
        or none. It closes it before: one that is open and deleted was deleted by somebody else.
        """
        if not self._log_is_lost:
            found = _stat(f"{self._path}-wal")
            log_id = None if found is None else _id_of(found)
            if log_id is None or log_id != self._log_id:
                self._log_is_lost = self._holds_a_deleted_log()
                self._log_id = log_id
        return self._log_is_lost

    def _holds_a_deleted_log(self) -> bool:
        deleted = set()
        try:
            for name in os.listdir(DESCRIPTORS):
                try:
                    link = os.readlink(f"{DESCRIPTORS}/{name}")
                except OSError:  # closed meanwhile
                    continue
                if link.startswith(self._path) and link.endswith(" (deleted)"):
                    deleted.add(link.removesuffix(" (deleted)"))
        except OSError:
            return False  # no Linux
        # With its file it belongs to a former database of this path, which somebody forgot to close.
        return f"{self._path}-wal" in deleted and self._path not in deleted


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _id_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
