"""All benchmarks and their sizes, in the order in which they run."""

from __future__ import annotations

from benchmarks.api import api
from benchmarks.backlog import backlog
from benchmarks.blocked import blocked
from benchmarks.crash import crash
from benchmarks.disk import disk
from benchmarks.drain import drain_5, drain_50
from benchmarks.drain_io import drain_io
from benchmarks.enqueue import enqueue
from benchmarks.far import far_20, far_100, far_300, far_reports
from benchmarks.fleet import fleet
from benchmarks.fleet_idle import fleet_idle
from benchmarks.frame import Benchmark, Size
from benchmarks.idle import idle
from benchmarks.latency import latency
from benchmarks.limit import limit
from benchmarks.memory import memory
from benchmarks.quota import quota
from benchmarks.start import start
from benchmarks.store import store

SUITE = (
    Benchmark("limit", limit, {"tiny": Size(300, 1), "small": Size(300_000, 1), "full": Size(300_000, 3)}),
    Benchmark("enqueue", enqueue, {"tiny": Size(100, 1), "small": Size(20_000, 3), "full": Size(100_000, 5)}),
    Benchmark("drain-5", drain_5, {"tiny": Size(50, 1), "small": Size(20_000, 3), "full": Size(30_000, 5)}),
    Benchmark("drain-50", drain_50, {"tiny": Size(100, 1), "small": Size(20_000, 3), "full": Size(30_000, 5)}),
    Benchmark("drain-io", drain_io, {"tiny": Size(100, 1), "small": Size(10_000, 1), "full": Size(30_000, 3)}),
    Benchmark(
        "far-20", far_20, {"tiny": Size(50, 1), "small": Size(20_000, 1), "full": Size(30_000, 3)}, needs_server=True
    ),
    Benchmark(
        "far-100", far_100, {"tiny": Size(50, 1), "small": Size(20_000, 1), "full": Size(30_000, 3)}, needs_server=True
    ),
    Benchmark(
        "far-300", far_300, {"tiny": Size(50, 1), "small": Size(20_000, 1), "full": Size(30_000, 3)}, needs_server=True
    ),
    Benchmark(
        "far-reports",
        far_reports,
        {"tiny": Size(10, 1), "small": Size(500, 1), "full": Size(2000, 3)},
        needs_server=True,
    ),
    Benchmark(
        "fleet", fleet, {"tiny": Size(50, 1), "small": Size(10_000, 3), "full": Size(10_000, 3)}, needs_server=True
    ),
    Benchmark("start", start, {"tiny": Size(1, 1), "small": Size(1, 5), "full": Size(1, 11)}),
    Benchmark("idle", idle, {"tiny": Size(1, 1), "small": Size(30, 1), "full": Size(60, 3)}),
    Benchmark(
        "fleet-idle",
        fleet_idle,
        {"tiny": Size(1, 1), "small": Size(60, 1), "full": Size(300, 1)},
        needs_server=True,
    ),
    Benchmark("memory", memory, {"tiny": Size(100, 1), "small": Size(20_000, 1), "full": Size(100_000, 1)}),
    Benchmark("latency", latency, {"tiny": Size(3, 1), "small": Size(50, 1), "full": Size(100, 3)}),
    Benchmark("backlog", backlog, {"tiny": Size(1_000, 1), "small": Size(1_000_000, 1), "full": Size(10_000_000, 1)}),
    Benchmark("blocked", blocked, {"tiny": Size(300, 1), "small": Size(50_000, 1), "full": Size(1_000_000, 1)}),
    Benchmark("crash", crash, {"tiny": Size(20, 1), "small": Size(200, 3), "full": Size(200, 5)}),
    Benchmark("quota", quota, {"tiny": Size(1, 1), "small": Size(2, 3), "full": Size(60, 1)}),
    Benchmark("api", api, {"tiny": Size(2_000, 1), "small": Size(50_000, 1), "full": Size(1_000_000, 1)}),
    # one row below what AppsFlyer cuts a report at
    Benchmark("store", store, {"tiny": Size(2_000, 1), "small": Size(50_000, 1), "full": Size(199_999, 3)}),
    Benchmark("disk", disk, {"tiny": Size(1_000, 1), "small": Size(50_000, 1), "full": Size(199_999, 1)}),
)
