"""A simulated AppsFlyer on this machine: the documented shapes, the documented quotas, invented data.

A token is `sandbox-<username>`; it belongs to the account <username>, and any username has apps.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from crawlfleet.core.errors import UsageError
from crawlfleet.core.figures import App
from crawlfleet.sources.sandbox_data import apps_of, expected_rows, report_csv
from crawlfleet.sources.sandbox_quota import Check, Quotas, Tally

__all__ = ["Sandbox", "apps_of", "expected_rows", "serve"]

APPS_PATH = "/api/mng/apps"
STATS_PATH = "/__stats__"
REPORT_PATH = re.compile(r"/api/agg-data/export/app/([^/]+)/partners_by_date_report/v5")
TOKEN = re.compile(r"Bearer sandbox-(\S{1,190})")
MAX_APPS_PER_PAGE = 1000
NOT_FOUND_PAGE = "<!DOCTYPE html><html><head><title>404</title></head><body><h1>Page not found</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    content_type: str = "application/json"
    retry_after: float | None = None


class Sandbox:
    """The server; `port` 0 picks a free one. `start` returns when it listens, `stop` when the port is free again.

    `minute_seconds` is the length of the vendor's minute. Its day stays the UTC day unless `day_seconds` gives
    days of another length, counted from the start. A call that is refused for a quota of another length than
    the vendor's carries Retry-After, which the vendor does not send: a client could not know otherwise.
    `failure_rate` of the calls answer 500 or 503, before any quota; `seed` makes their order repeatable.
    `apps` is how many apps each account has, else 3 to 8. `clock` gives seconds of the Unix epoch.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        minute_seconds: float = 60.0,
        day_seconds: float | None = None,
        failure_rate: float = 0.0,
        seed: int = 0,
        apps: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= failure_rate <= 1:
            raise UsageError(f"failure_rate must lie between 0 and 1 (got {failure_rate})")
        if minute_seconds <= 0 or (day_seconds is not None and day_seconds <= 0):
            raise UsageError(f"minute and day must be longer than 0 s (got {minute_seconds} and {day_seconds})")
        self._host, self._port, self._apps = host, port, apps
        self._minute_is_real = minute_seconds == 60
        self._day_is_real = day_seconds is None
        self._quotas = Quotas(minute_seconds, day_seconds, clock)
        self._tally = Tally()
        self._failure_rate = failure_rate
        self._dice = random.Random(seed)
        self._dice_lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """The address to set as base_url; known after `start`."""
        if self._server is None:
            raise UsageError("the sandbox is not started")
        return f"http://{self._host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Listen; raises UsageError when the port is taken. Starting twice is fine."""
        if self._server is not None:
            return
        sandbox = self

        class Handler(_Handler):
            owner = sandbox

        try:
            self._server = _Server((self._host, self._port), Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}; choose another port"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="sandbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Stopping twice is fine."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def apps_of(self, username: str) -> list[App]:
        """The apps that this sandbox gives the account."""
        return apps_of(username, self._apps)

    def stats(self) -> dict[str, Any]:
        """What GET /__stats__ answers: calls and refused calls in all, by endpoint, by account."""
        return self._tally.stats()

    def answer(self, target: str, authorization: str) -> Answer:
        """The answer to a GET of `target`, counted."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        report = REPORT_PATH.fullmatch(parts.path)
        if parts.path == STATS_PATH:
            return Answer(200, json.dumps(self.stats()))
        if parts.path != APPS_PATH and report is None:
            return Answer(404, NOT_FOUND_PAGE, "text/html")
        match = TOKEN.fullmatch(authorization)
        username = match[1] if match else ""
        failure = self._failure()
        if failure is not None:
            answer = failure
        elif report is not None:
            answer = self._report(username, unquote(report[1]), query)
        else:
            answer = self._app_list(username, query)
        endpoint = "app_list" if report is None else "partners_by_date_report"
        self._tally.count(endpoint, username or "(wrong token)", answer.status != 200)
        return answer

    def _failure(self) -> Answer | None:
        with self._dice_lock:
            if self._dice.random() >= self._failure_rate:
                return None
            status = self._dice.choice((500, 503))
        return Answer(status, "simulated failure", "text/plain")

    def _app_list(self, username: str, query: dict[str, str]) -> Answer:
        if not username:
            return Answer(401, json.dumps("Unauthorized"))
        try:
            limit, offset = int(query.get("limit", MAX_APPS_PER_PAGE)), int(query.get("offset", 0))
        except ValueError:
            return Answer(400, json.dumps("Bad request"))
        if not 1 <= limit <= MAX_APPS_PER_PAGE or offset < 0:
            return Answer(400, json.dumps("Bad request"))
        wait = self._quotas.take([(("apps", username), 20, False), (("apps-day", username), 100, True)])
        if wait is not None:
            return Answer(429, json.dumps("Too many requests"), retry_after=wait)
        apps = self.apps_of(username)
        links = {"self": self._page_link(offset, limit)}
        if offset > 0:
            links["prev"] = self._page_link(max(0, offset - limit), limit)
        if offset + limit < len(apps):
            links["next"] = self._page_link(offset + limit, limit)
        page = [_app_record(app) for app in apps[offset : offset + limit]]
        return Answer(200, json.dumps({"data": page, "meta": {"total_items": len(apps)}, "links": links}))

    def _page_link(self, offset: int, limit: int) -> str:
        return f"{self.base_url}{APPS_PATH}?offset={offset}&limit={limit}"

    def _report(self, username: str, app_id: str, query: dict[str, str]) -> Answer:
        if not username:
            return Answer(401, json.dumps({"message": "Supplied API token is invalid"}))
        if app_id not in {app.app_id for app in self.apps_of(username)}:
            return Answer(404, NOT_FOUND_PAGE, "text/html")
        try:
            start, end = date.fromisoformat(query["from"]), date.fromisoformat(query["to"])
        except (KeyError, ValueError):
            return Answer(400, json.dumps({"message": "from and to must be dates like 2026-01-31"}))
        days = (end - start).days + 1
        if days < 1:
            return Answer(400, json.dumps({"message": "from must not be after to"}))
        checks: list[Check] = [(("short", username, app_id), 1, False)]
        is_short = days <= 2
        if not is_short:
            checks = [(("long", username, app_id), 24, True), (("long-account", username), 120, True)]
        wait = self._quotas.take(checks)
        if wait is not None:
            is_real = self._minute_is_real if is_short else self._day_is_real
            return Answer(403, "Limit reached for partners-daily-report", "text/plain", None if is_real else wait)
        return Answer(200, report_csv(username, app_id, start, end), "text/csv")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.connections):  # kept-alive clients must see that the server is gone
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one packet, so keep-alive is not slowed by delayed acknowledgements
    timeout = 60  # an idle connection
    owner: Sandbox

    def do_GET(self) -> None:
        answer = self.owner.answer(self.path, self.headers.get("Authorization", ""))
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after is not None:
            self.send_header("Retry-After", f"{answer.retry_after + 0.001:.3f}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are counted, not logged."""


def _app_record(app: App) -> dict[str, Any]:
    attributes = {"name": app.name, "platform": app.platform, "currency": app.currency, "time_zone": app.time_zone}
    return {"id": app.app_id, "type": "app", "attributes": {**attributes, **app.extra}}


def serve(
    host: str = "127.0.0.1",
    port: int = 8099,
    minute_seconds: float = 60.0,
    day_seconds: float | None = None,
    failure_rate: float = 0.0,
    seed: int = 0,
    apps: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run a sandbox until SIGINT or SIGTERM, after saying how to use it. Must be called in the main thread."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Sandbox(host, port, minute_seconds, day_seconds, failure_rate, seed, apps) as sandbox:
        say(f"sandbox listens on {sandbox.base_url}; Ctrl-C ends it. In another terminal:")
        say(f"  export CRAWLFLEET_APPSFLYER_BASE_URL={sandbox.base_url}")
        for username, kind in (("demo_agency", "agency"), ("demo_advertiser", "advertiser")):
            variable = f"SANDBOX_TOKEN_{username.upper()}"
            say(f"  export {variable}=sandbox-{username}")
            account = f"--source appsflyer --username {username} --kind {kind} --token-env {variable}"
            say(f"  python main.py accounts add {account}")
        say(f"Calls so far: curl {sandbox.base_url}{STATS_PATH}")
        stopped.wait()
