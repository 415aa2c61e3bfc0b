"""Files that only their owner is to see: the one way to read a secret, and the one way to write a file of secrets."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from crawlfleet.core.errors import UsageError

SECRET_BYTES = 64 * 1024
OTHERS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP  # what may not be allowed, also in a file of root
ROOT = 0


def keep_new_files_private() -> None:
    """Let no file that this process or its children make be read by others, whatever the shell had allowed."""
    os.umask(0o077)


def read_secret(what: str, path: str | Path, max_bytes: int = SECRET_BYTES) -> bytes:
    """What stands in the file, cut after `max_bytes`.

    The file must be closed to others (0600). In one of root's the group may read (0640), as systemd and Kubernetes hand
    out secrets. Raises UsageError that names `what` and the file, never its content.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would hold the node up.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{what} {path} is no file")
            if os.name == "posix" and found.st_mode & (OTHERS if found.st_uid == ROOT else OTHERS | stat.S_IRGRP):
                raise UsageError(
                    f"{what} {path} is open to others than its owner (mode {stat.S_IMODE(found.st_mode):04o}):"
                    f" chmod 600 {path}"
                )
            return stream.read(max_bytes)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{what} {path} cannot be read: {reason}") from None


def is_open_to_others(path: str | Path) -> bool:
    """Whether everybody on this machine may read the file; False where there is none."""
    try:
        return os.name == "posix" and bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def write_private(path: str | Path, text: str, replace: bool = False) -> None:
    """Write a file for its owner alone (0600), whole or not at all, also over one with another mode.

    Raises FileExistsError without `replace`, UsageError for what is no file, OSError for what cannot be written.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file: name another place")
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            unfinished.replace(path)
        else:
            _name_once(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # has another name by now when all went well


def _name_once(unfinished: Path, path: Path) -> None:
    """Give the file its name; raises FileExistsError when another has it."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(unfinished.read_bytes())
