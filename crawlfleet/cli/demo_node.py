"""The demo's node: a real one in its own process, with a config file that is there to start from afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from crawlfleet.cli.program import MAIN, program_words
from crawlfleet.cli.sandbox_cli import DEFAULT_PORT, settings_text
from crawlfleet.core.private_files import write_private
from crawlfleet.settings.config_file import toml_value
from crawlfleet.settings.definitions import ENVIRONMENT_PREFIX
from crawlfleet.settings.older_names import OLD_VARIABLES

DEVICE_ID = "demo-01"
GRACE_SECONDS = 3.0  # that the node gives its running tasks when it is stopped


def _program() -> list[str]:
    return [sys.executable, str(MAIN) if MAIN.is_file() else str(Path(sys.executable).with_name("crawlfleet"))]


def config_of(folder: Path) -> Path:
    """Return the config file that the demo writes."""
    return folder / "crawlfleet.toml"


def start_commands(folder: Path, minute_seconds: float) -> tuple[str, str]:
    """Return the lines that start a vendor and a node like the demo's, one after the other in one terminal."""
    node = f"distribute standalone --device-id demo-02 --config {config_of(folder)}"
    return f"{program_words()} sandbox --minute-seconds {minute_seconds:g} &", f"{program_words()} {node}"


class DemoNode:
    """Runs inside the `with` block until nothing is left to do; leaving the block early stops it gracefully."""

    def __init__(self, folder: Path, database: Path, vendor_url: str, minute_seconds: float) -> None:
        self._folder, self._database, self._minute_seconds = folder, database, minute_seconds
        self._command = [*_program(), "distribute", "standalone", "--device-id", DEVICE_ID, "--until-idle", "--no-api"]
        self._command += ["--config", str(config_of(folder))]
        # What the user has set for another fleet must not reach this one.
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ENVIRONMENT_PREFIX) and name not in OLD_VARIABLES
        }
        # Its vendor is gone when the demo has ended; the one of the file can be started again.
        self._environment = {**mine, "CRAWLFLEET_APPSFLYER_BASE_URL": vendor_url, "PYTHONUTF8": "1"}

    def __enter__(self) -> DemoNode:
        vendor = settings_text(f"http://127.0.0.1:{DEFAULT_PORT}", self._minute_seconds)
        write_private(
            config_of(self._folder),
            "# Written by the demo, to start from:\n"
            + "".join(f"#   {command}\n" for command in start_commands(self._folder, self._minute_seconds))
            + f"database_url = {toml_value(f'sqlite:///{self._database.absolute()}')}\n"
            f"token_folder = {toml_value(str(self._folder.absolute()))}\n"
            f"retry_delay_seconds = 1\nshutdown_grace = {GRACE_SECONDS:g}\n\n{vendor}",
            replace=True,
        )
        # A session of its own: Ctrl-C must reach it once, from here.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._forward, name="demo-log", daemon=True)
        self._reader.start()
        return self

    def _forward(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(line.decode("utf-8", "replace").rstrip(), file=sys.stderr, flush=True)

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None when the node still runs after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            if self.wait(GRACE_SECONDS + 5) is None:
                self._process.kill()
                self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
