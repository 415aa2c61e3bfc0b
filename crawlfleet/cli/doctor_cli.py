"""`doctor`: whether this machine can run a node, and what to do when it cannot."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from crawlfleet.cli.arguments import add_json_option
from crawlfleet.cli.output import print_finding, print_json


def run_doctor(args: argparse.Namespace) -> int:
    """Print one line for each finding; exit code 1 when something fails."""
    from crawlfleet.doctor.examination import examine

    findings = []
    for finding in examine(args.config, {"database_url": args.database}):
        findings.append(finding)
        if not args.json:
            advice = f": {finding.advice}" if finding.advice else ""
            print_finding(finding.status, finding.check, finding.finding + advice)
    if args.json:
        print_json(map(asdict, findings))
    return 1 if any(finding.status == "FAIL" for finding in findings) else 0


def add_parser(subparsers: Any) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser("doctor", help="check whether this machine can run a node, and say what to do")
    add_json_option(parser)
    parser.set_defaults(run=run_doctor)
