"""Ends server processes and removes their directories when the test run ends, even when it is killed.

The run starts this file as a child and keeps a pipe to it. Lines "watch PID", "forget PID" and "remove DIRECTORY" say
what to do when the pipe closes, which the kernel sees to however the run ends. (A parent-death signal would not do: it
fires when the *thread* that started the server ends.) Needs nothing but the standard library.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
import time


class Reaper:
    """This process's line to its reaper, which starts with the first thing to watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int) -> None:
        """Kill process group `pid` at the end of the run."""
        self._tell(f"watch {pid}")

    def forget(self, pid: int) -> None:
        """Process group `pid` has ended; its number may be used again by others."""
        self._tell(f"forget {pid}")

    def remove(self, directory: str) -> None:
        """Remove `directory` at the end of the run, after its servers."""
        self._tell(f"remove {directory}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                # a session of its own: Ctrl-C in the terminal must not end it before its work is done
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", __file__], stdin=subprocess.PIPE, start_new_session=True
                )
                atexit.register(self._finish, self._process)
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    @staticmethod
    def _finish(process: subprocess.Popen[bytes]) -> None:
        process.communicate()


reaper = Reaper()


def main() -> None:
    watched: set[int] = set()
    directories: list[str] = []
    for line in sys.stdin:
        verb, _, value = line.rstrip("\n").partition(" ")
        if verb == "watch":
            watched.add(int(value))
        elif verb == "forget":
            watched.discard(int(value))
        else:
            directories.append(value)
    for pid in watched:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for directory in directories:
        for _ in range(200):  # children of a killed server may write for a moment longer
            shutil.rmtree(directory, ignore_errors=True)
            if not os.path.exists(directory):
                break
            time.sleep(0.05)


if __name__ == "__main__":
    main()
