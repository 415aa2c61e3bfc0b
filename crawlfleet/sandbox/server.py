"""Simulated vendors, AppsFlyer and the App Store: a thin server before the parts that answer for each of them.

An AppsFlyer token is `sandbox-<username>`; it belongs to the account <username>, and any username has apps.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from crawlfleet.core.errors import UsageError
from crawlfleet.core.hosts import bare_host, family_of, with_port
from crawlfleet.core.vendor_data import App, Figures
from crawlfleet.sandbox.answer import Answer
from crawlfleet.sandbox.apple.endpoints import AppleStore
from crawlfleet.sandbox.apple.invented_data import DEVELOPERS
from crawlfleet.sandbox.appsflyer.endpoints import (
    EXPORTS,
    NOT_FOUND_PAGE,
    ROW_CAP,
    AppsFlyerVendor,
    Permits,
    permits_by_name,
)
from crawlfleet.sandbox.appsflyer.invented_data import PARTNERS, apps_of, expected_rows
from crawlfleet.sandbox.exports import EXPORT_PATH, Exports
from crawlfleet.sandbox.moods import PACE, Moods
from crawlfleet.sandbox.quota import Quotas, Tally

__all__ = ["Sandbox", "apps_of", "expected_rows", "serve"]

STATS_PATH, CALLS_PATH = "/__stats__", "/__calls__"


class Sandbox:
    """The server; `port` 0 picks a free one. `start` returns when it listens, `stop` when the port is free again.

    `minute_seconds` is the length of the vendor's minute. Its day stays the UTC day unless `day_seconds` gives
    days of another length, counted from the start. A call that is refused for a quota of another length than
    the vendor's carries Retry-After, which the vendor does not send: a client could not know otherwise.
    `failure_rate` of the calls answer 500 or 503, before any quota; `seed` makes their order repeatable.
    `apps` is how many apps each AppsFlyer account has, else 3 to 8. `clock` gives seconds of the Unix epoch.
    AppsFlyer's reports are answered with a redirect to their file: at another port ("port"), at the same address
    ("origin"), at either by turns ("both"), or with the report itself ("off"), as `redirects` says. `moods` are what
    AppsFlyer answers now and then, see `moods.parse_moods`; `seed` makes them repeatable, too.

    For tests: `cut_rate` and `stall_rate` of the good answers end, or fall silent, in the middle of their body.
    `row_cap` is what the Pull API cuts a report to and the Master API refuses to exceed. `permits(username, report)`
    says what an account may have; by default accounts with `noplan` in their name lack the Master API.
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
        cut_rate: float = 0.0,
        stall_rate: float = 0.0,
        row_cap: int = ROW_CAP,
        permits: Permits = permits_by_name,
        redirects: str = "both",
        moods: Sequence[str] = (),
    ) -> None:
        for name, rate in (("failure_rate", failure_rate), ("cut_rate", cut_rate), ("stall_rate", stall_rate)):
            if not 0 <= rate <= 1:
                raise UsageError(f"{name} must lie between 0 and 1 (got {rate})")
        if minute_seconds <= 0 or (day_seconds is not None and day_seconds <= 0):
            raise UsageError(f"minute and day must be longer than 0 s (got {minute_seconds} and {day_seconds})")
        self._host, self._port = bare_host(host), port
        self._moods, self._clock = Moods(moods, seed), clock
        pace = PACE if self._moods.has("pace") else 1.0
        self._quotas = quotas = Quotas(minute_seconds, day_seconds, clock, pace)
        quota_is_real = (minute_seconds == 60, day_seconds is None)
        self._appsflyer = AppsFlyerVendor(
            quotas, quota_is_real, self._failure, clock, lambda: self.base_url, apps, row_cap, permits, self._moods
        )
        self._apple = AppleStore(quotas, quota_is_real[0], self._failure, clock)
        self._tally = Tally()
        self._exports = Exports(redirects, clock, lambda: (self.base_url, self._address(self._files)))
        self._failure_rate, self._cut_rate, self._stall_rate = failure_rate, cut_rate, stall_rate
        self._dice = random.Random(seed)
        self._dice_lock = threading.Lock()
        self._server: _Server | None = None
        self._files: _Server | None = None

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """The address to set as base_url; known after `start`."""
        return self._address(self._server)

    def _address(self, server: _Server | None) -> str:
        if server is None:
            raise UsageError("the sandbox is not started")
        return f"http://{with_port(self._host, server.server_address[1])}"

    def start(self) -> None:
        """Listen; raises UsageError when the port is taken. Starting twice is fine."""
        if self._server is not None:
            return
        self._server = self._listen(self._port, self.answer)
        self._files = self._listen(0, lambda target, token: self._exports.fetch(urlsplit(target).path, bool(token)))

    def _listen(self, port: int, respond: Callable[[str, str], Answer]) -> _Server:
        class Handler(_Handler):
            answer = staticmethod(respond)

        place = with_port(self._host, port)
        try:
            return _Server((self._host, port), Handler)
        except OSError as error:
            raise UsageError(f"cannot listen on {place}: {error.strerror}; choose another address or port") from None
        except UnicodeError:
            raise UsageError(f"cannot listen on {place}: it is no address of this machine") from None

    def stop(self) -> None:
        """Close the port. Stopping twice is fine."""
        for server in (self._server, self._files):
            if server is not None:
                server.stop()
        self._server = self._files = None

    def apps_of(self, username: str) -> list[App]:
        """The apps that this sandbox gives the account."""
        return self._appsflyer.apps_of(username)

    def expected_rows(
        self, username: str, app_id: str, start: date, end: date, report: str = PARTNERS
    ) -> list[Figures]:
        """The truth about a report of the account: what a correct reader yields, when no row cap is in the way."""
        return self._appsflyer.expected_rows(username, app_id, start, end, report)

    def stats(self) -> dict[str, Any]:
        """What GET /__stats__ answers: calls and refused calls in all, by endpoint, by account.

        `over_quota` counts the calls that broke a declared quota, `moods` the answers that were not the usual ones,
        `token_leaks` the calls that brought a token to the address of a file.
        """
        return {
            **self._tally.stats(),
            "over_quota": self._quotas.over_quota,
            "token_leaks": self._exports.leaks,
        }

    def calls(self) -> list[dict[str, Any]]:
        """What GET /__calls__ answers: the newest 100,000 calls in their order, see `Tally.calls`."""
        return self._tally.calls()

    def answer(self, target: str, authorization: str) -> Answer:
        """The answer to a GET of `target`, counted."""
        at = self._clock()
        parts = urlsplit(target)
        if parts.path == STATS_PATH:
            return Answer(200, json.dumps(self.stats()))
        if parts.path == CALLS_PATH:
            return Answer(200, json.dumps(self.calls()))
        if parts.path.startswith(EXPORT_PATH):
            return self._exports.fetch(parts.path, has_token=False)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        answer = self._appsflyer.answer(parts.path, query, authorization) or self._apple.answer(parts.path, query)
        if answer is None:
            return Answer(404, NOT_FOUND_PAGE, "text/html")
        answer = self._with_fault(answer)
        is_export = answer.status == 200 and answer.endpoint in EXPORTS
        has_expired = is_export and self._moods.strikes("expired", answer.call)
        if has_expired:
            answer = replace(answer, mood="expired")
        self._tally.count(answer, at)
        return self._exports.offer(answer, has_expired) if is_export else answer

    def _failure(self) -> Answer | None:
        with self._dice_lock:
            if self._dice.random() >= self._failure_rate:
                return None
            status = self._dice.choice((500, 503))
        return Answer(status, "simulated failure", "text/plain", mood="failure")

    def _with_fault(self, answer: Answer) -> Answer:
        if answer.status != 200 or not self._cut_rate + self._stall_rate:
            return answer
        with self._dice_lock:
            roll = self._dice.random()
        if roll < self._cut_rate:
            return replace(answer, fault="cut")
        return replace(answer, fault="stall") if roll < self._cut_rate + self._stall_rate else answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: set[socket.socket] = set()
        self.address_family = family_of(address[0])
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="sandbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the port is free again."""
        self.shutdown()
        self.server_close()
        self._thread.join()

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
    answer: Callable[[str, str], Answer]

    def do_GET(self) -> None:
        answer = self.answer(self.path, self.headers.get("Authorization", ""))
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if answer.location is not None:
            self.send_header("Location", answer.location)
        if answer.retry_after is not None:
            self.send_header("Retry-After", f"{answer.retry_after + 0.001:.3f}")
        self.end_headers()
        if answer.fault is None:
            self.wfile.write(body)
            if answer.when_sent is not None:
                answer.when_sent()
            return
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True
        if answer.fault == "stall":
            self.wfile.flush()
            with contextlib.suppress(OSError):
                self.rfile.read(1)  # silent until the client or the sandbox gives up

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are counted, not logged."""


def serve(
    host: str = "127.0.0.1",
    port: int = 8099,
    minute_seconds: float = 60.0,
    day_seconds: float | None = None,
    failure_rate: float = 0.0,
    seed: int = 0,
    apps: int | None = None,
    redirects: str = "both",
    moods: Sequence[str] = (),
    say: Callable[[str], None] = print,
    settings_for: Callable[[str], str] = lambda base_url: "",
) -> None:
    """Run a sandbox until SIGINT or SIGTERM, after saying how to use it. Must be called in the main thread.

    `settings_for` gives the settings of nodes that go with the sandbox at an address.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Sandbox(
        host, port, minute_seconds, day_seconds, failure_rate, seed, apps, redirects=redirects, moods=moods
    ) as sandbox:
        say(f"sandbox listens on {sandbox.base_url}; Ctrl-C ends it. Where you use it:")
        say(f"  export CRAWLFLEET_APPSFLYER_BASE_URL={sandbox.base_url}")
        for username, kind in (("demo_agency", "agency"), ("demo_advertiser", "advertiser")):
            variable = f"SANDBOX_TOKEN_{username.upper()}"
            say(f"  export {variable}=sandbox-{username}")
            account = f"--source appsflyer --username {username} --kind {kind} --token-env {variable}"
            say(f"  python main.py accounts add {account}")
        say(f"  export CRAWLFLEET_APPLE_BASE_URL={sandbox.base_url}")
        for developer in DEVELOPERS:
            say(f"  python main.py accounts add --source apple --username {developer}")
        if settings := settings_for(sandbox.base_url):
            say("Its quotas are not the vendor's: nodes need a config file (--config FILE) with")
            say("\n".join(f"  {line}" for line in settings.splitlines()))
        say(f"Calls so far: curl {sandbox.base_url}{STATS_PATH}, each of them: curl {sandbox.base_url}{CALLS_PATH}")
        stopped.wait()
