"""Fetching and storing a large report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.place import Place
from crawlfleet.core.account import Account
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.insights.stored_rows import data_rows

FIRST_DAY, DAYS = date(2026, 1, 1), 31
HEADER = (
    "Date,Agency/PMD (af_prt),Media Source (pid),Campaign (c),Impressions,Clicks,CTR,Installs,Conversion Rate,Sessions,"
    "Loyal Users,Loyal Users/Installs,Total Revenue,Total Cost,ROI,ARPU,Average eCPI,af_purchase (Unique users),"
    "af_purchase (Event counter),af_purchase (Sales in USD)\n"
)


def store(place: Place, rows: int) -> dict[str, float]:
    """How fast one node fetches, parses and stores a large report, and how much memory that takes.

    Size: rows of one report of 20 columns, sent by a local server as fast as it is read. The task runs twice: the
    second time replaces what the first one stored. Memory is of a node without API, looked at every 0.1 s.
    """
    seconds, samples = fetch(place, rows, times=2)
    return {
        "first time, rows/s": rows / seconds[0],
        "replacing, rows/s": rows / seconds[1],
        "memory before, MB": samples[0],
        "most memory, MB": max(samples),
    }


def fetch(place: Place, rows: int, times: int) -> tuple[list[float], list[float]]:
    """Let a node fetch and store the report so often; how many seconds each took, and the node's memory in MB."""
    place.fleet.accounts.add(Account("appsflyer", "large", "agency", token_env="TOKEN_LARGE"))
    with serve(report(rows)) as address:
        environ = {"TOKEN_LARGE": "any", "CRAWLFLEET_APPSFLYER_BASE_URL": address}
        with place.node(environ=environ) as node:
            node.wait_started()
            samples = place.watch(node, lambda: True)
            seconds = []
            for _ in range(times):
                began = time.perf_counter()
                last = FIRST_DAY + timedelta(days=DAYS - 1)
                task = place.fleet.add_task(
                    "app_data", username="large", app_id="com.example.large", start_date=FIRST_DAY, end_date=last
                )
                samples += place.watch(node, lambda task=task: place.completed([task]))  # type: ignore[misc]
                seconds.append(time.perf_counter() - began)
    stored = sum(1 for _ in data_rows(place.fleet.db, FeedFilter()))
    if stored != rows:
        raise RuntimeError(f"{rows} rows were sent, {stored} are stored")
    return seconds, samples


def report(rows: int) -> bytes:
    """A report of so many rows, each with dimensions of its own."""
    lines = (
        f"{FIRST_DAY + timedelta(days=n % DAYS)},agency{n % 7},network{n % 23}_int,Campaign {n},{n % 9000},{n % 700},"
        f"0.0395,{n % 90},0.1113,{n % 1500},{n % 60},0.2877,{n % 400}.5000,{n % 300}.0000,-0.2488,1.5024,2.0000,"
        f"{n % 19},{n % 27},{n % 301}.0000\n"
        for n in range(rows)
    )
    return (HEADER + "".join(lines)).encode()


@contextmanager
def serve(body: bytes) -> Iterator[str]:
    """The address of a server on loopback that answers every GET with this body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/csv")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # the table is all that this program prints

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
