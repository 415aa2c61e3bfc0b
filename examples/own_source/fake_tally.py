"""A stand-in for Tally on loopback: invented figures, the documented limits, and a count of what it refused.

`python fake_tally.py` serves it until Ctrl-C. Every token is welcome but "wrong".
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict, deque
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

APPS = ("chess", "radio", "trail")
NETWORKS = ("north", "south")


def rows(app_id: str, start: date, end: date) -> list[dict[str, Any]]:
    """The figures of an app; the network south does not tell its cost."""
    days = [start + timedelta(n) for n in range((end - start).days + 1)]
    return [
        {
            "date": f"{day}",
            "network": network,
            "installs": day.day + len(app_id),
            "cost": "12.50" if network == "north" else None,
        }
        for day in days
        for network in NETWORKS
    ]


class FakeTally:
    """Serves from `__enter__` to `__exit__`. `calls` in `window_seconds` for each token, 24 for each token and app."""

    def __init__(self, calls: int = 10, window_seconds: float = 60, port: int = 0) -> None:
        self.accepted, self.refused = 0, 0
        self._calls, self._window_seconds = calls, window_seconds
        self._moments: dict[str, deque[float]] = defaultdict(deque)
        self._app_calls: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                status, headers, answer = fake.answer(token, self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeTally:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, token: str, target: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one call."""
        parts = urlsplit(target).path.split("/")[1:]
        if token in ("", "wrong"):
            return 401, {}, {"error": "unknown token"}
        app_id = parts[2] if len(parts) > 2 else ""
        wait = self._take(token, app_id)
        if wait is not None:
            return 429, {"Retry-After": f"{wait:.3f}"}, {"error": "too many calls"}
        if parts == ["v1", "apps"]:
            return 200, {}, {"rows": [{"id": app, "name": app.title(), "os": "android"} for app in APPS]}
        if app_id not in APPS or parts[3:] != ["daily"]:
            return 404, {}, {"error": "no such app or report"}
        asked = parse_qs(urlsplit(target).query)
        return 200, {}, {"rows": rows(app_id, *(date.fromisoformat(asked[name][0]) for name in ("from", "to")))}

    def _take(self, token: str, app_id: str) -> float | None:
        """Count the call; seconds to wait when it is one too many."""
        with self._lock:
            now, moments = time.monotonic(), self._moments[token]
            while moments and moments[0] + self._window_seconds <= now:
                moments.popleft()
            if len(moments) >= self._calls or (app_id and self._app_calls[token, app_id] >= 24):
                self.refused += 1
                return moments[0] + self._window_seconds - now if moments else 3600.0
            moments.append(now)
            self._app_calls[token, app_id] += 1
            self.accepted += 1
            return None


if __name__ == "__main__":
    with FakeTally(port=8901) as tally:
        print(f"Tally is at {tally.base_url}, ends with Ctrl-C")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
