"""`sandbox`: a vendor to try everything with, simulated on this machine."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from crawlfleet.cli.arguments import whole_number
from crawlfleet.sandbox.exports import REDIRECTS
from crawlfleet.settings.config_file import toml_value

SIMULATED = ("appsflyer", "apple")
MINUTE = 60.0  # seconds of the vendors' own
DEFAULT_PORT = 8900


def run_sandbox(args: argparse.Namespace) -> int:
    """Serve the simulated vendors until SIGINT or SIGTERM."""
    from crawlfleet.sandbox.server import serve

    serve(
        args.host,
        args.port,
        args.minute_seconds,
        failure_rate=args.failure_rate,
        seed=args.seed,
        apps=args.apps,
        redirects=args.redirects,
        moods=args.mood,
        settings_for=lambda base_url: (
            "" if args.minute_seconds == MINUTE else settings_text(base_url, args.minute_seconds)
        ),
        say=lambda line: print(line, flush=True),  # its reader waits for the address
    )
    return 0


def settings_text(base_url: str, minute_seconds: float) -> str:
    """Return the settings of nodes that ask a sandbox at this address whose minute has so many seconds, as TOML."""
    from crawlfleet.sources.contract import SourceSettings
    from crawlfleet.sources.registry import make_source

    lines = []
    for name in SIMULATED:
        limits = [each for each in make_source(name, SourceSettings()).limits if each.seconds == MINUTE]
        lines += [f"[sources.{name}]", f"base_url = {toml_value(base_url)}", f"[sources.{name}.limits]"]
        lines += [f"{each.name} = {{calls = {each.calls}, seconds = {minute_seconds:g}}}" for each in limits]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g} (got {text!r:.80})")
        return value

    return parse


def add_parser(subparsers: Any) -> None:
    """Add `sandbox`."""
    parser = subparsers.add_parser("sandbox", help="run simulated vendor APIs, with quotas")
    add = parser.add_argument
    add("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add(
        "--port",
        metavar="N",
        type=whole_number(0, 65_535),
        default=DEFAULT_PORT,
        help="default: 8900; 0 takes any free one",
    )
    minute = _number(0.01, 3600)
    add(
        "--minute-seconds", metavar="S", type=minute, default=MINUTE, help="length of the vendor's minute (default: 60)"
    )
    add(
        "--failure-rate",
        metavar="R",
        type=_number(0, 1),
        default=0.0,
        help="share of calls that fail, from 0 to 1 (default: 0)",
    )
    add(
        "--seed",
        metavar="N",
        type=whole_number(0, 2**31),
        default=0,
        help="random seed, to repeat the same failures (default: 0)",
    )
    add(
        "--redirects",
        metavar="WHERE",
        choices=REDIRECTS,
        default=REDIRECTS[0],
        help="where reports redirect to: another port, the same origin, both in turn (default), or off",
    )
    add("--apps", metavar="N", type=whole_number(0, 100_000), help="apps of each AppsFlyer account (default: 3 to 8)")
    add(
        "--mood",
        metavar="NAME[=SHARE]",
        action="append",
        default=[],
        help="what real vendors answer now and then, as in cdn-page, empty, ... all of docs/commands.md; repeatable",
    )
    parser.set_defaults(run=run_sandbox)
