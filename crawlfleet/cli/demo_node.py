"""The demo's node: a real one in its own process. A config file tells it where the simulated vendor is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from crawlfleet.cli.program import MAIN
from crawlfleet.settings.config_file import toml_value
from crawlfleet.settings.definitions import ENVIRONMENT_PREFIX
from crawlfleet.settings.older_names import OLD_VARIABLES

DEVICE_ID = "demo-01"
GRACE_SECONDS = 3.0  # that the node gives its running tasks when it is stopped


def _program() -> list[str]:
    return [sys.executable, str(MAIN) if MAIN.is_file() else str(Path(sys.executable).with_name("crawlfleet"))]


class DemoNode:
    """Runs inside the `with` block until nothing is left to do; leaving the block early stops it gracefully."""

    def __init__(self, folder: Path, database_url: str, vendor_url: str, tokens: Mapping[str, str]) -> None:
        self._config = folder / "crawlfleet.toml"
        self._vendor_url = vendor_url
        self._command = [*_program(), "distribute", "standalone", "--device-id", DEVICE_ID, "--until-idle", "--no-api"]
        self._command += ["--database", database_url, "--config", str(self._config)]
        # What the user has set for another fleet must not reach this one.
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(ENVIRONMENT_PREFIX) and name not in OLD_VARIABLES
        }
        self._environment = {**mine, **tokens, "PYTHONUTF8": "1"}

    def __enter__(self) -> DemoNode:
        self._config.write_text(
            "# written by the demo; the vendor it names is gone when the demo has ended\n"
            f"retry_delay_seconds = 1\nshutdown_grace = {GRACE_SECONDS}\n\n"
            f"[sources.appsflyer]\nbase_url = {toml_value(self._vendor_url)}\n",
            encoding="utf-8",
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
