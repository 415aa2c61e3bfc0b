"""`devices`: list the devices, let one claim nothing more, or forget one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from crawlfleet.cli.arguments import add_json_option, settings_from
from crawlfleet.cli.database import actor, existing_database, existing_fleet
from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import print_json, print_table
from crawlfleet.core.wording import counted

COLUMNS = (
    "device",
    "status",
    "running",
    "slots",
    "last beat",
    "type",
    "cpu %",
    "memory %",
    "load",
    "errors",
    "labels",
    "version",
    "host",
)


def run_list(args: argparse.Namespace) -> int:
    """Print all devices."""
    from crawlfleet.insights.devices import devices

    with existing_database(args) as db:
        rows = devices(db)
    if args.json:
        print_json(rows)
    else:
        print_devices(rows)
    return 0


def print_devices(devices: Iterable[Mapping[str, Any]]) -> None:
    """Print a table of devices with their latest beat."""
    lines = [*map(_line, devices)]
    if lines:
        print_table(COLUMNS, lines)
    else:
        print("no device has registered yet")


def _line(device: Mapping[str, Any]) -> tuple[Any, ...]:
    from crawlfleet.insights.devices import status_text

    beat = device["heartbeat"] or {}
    return (
        device["device_id"],
        status_text(device),
        device["current_tasks"],
        device["max_concurrent_tasks"],
        screen.ago(device["last_heartbeat"]),
        device["device_type"],
        *(beat.get(name) for name in ("cpu_usage", "memory_usage", "system_load", "error_count")),
        ", ".join(device["capabilities"].get("labels", ())) or None,
        f"{device['version']} (old)" if device["is_outdated"] else device["version"],
        device["process"].get("hostname"),
    )


def run_drain(args: argparse.Namespace) -> int:
    """Let a device finish what it runs and claim nothing more, or with --undo claim again."""
    if args.undo:
        return run_resume(args)
    _set_draining(args, True)
    print(f"device {args.device_id} drains: it claims nothing more until resume or its next start")
    return 0


def run_resume(args: argparse.Namespace) -> int:
    """Let a draining device claim again."""
    _set_draining(args, False)
    print(f"device {args.device_id} claims again")
    return 0


def _set_draining(args: argparse.Namespace, draining: bool) -> None:
    with existing_fleet(args) as fleet:
        fleet.set_draining(args.device_id, draining, actor())


def run_remove(args: argparse.Namespace) -> int:
    """Forget a device: one that is offline, or any with --force."""
    offline_timeout = settings_from(args).offline_timeout if args.force else None
    with existing_fleet(args) as fleet:
        released = fleet.remove_device(args.device_id, actor(), offline_timeout)
    tasks = f", {counted(released, 'task')} went back to the queue" if released else ""
    print(f"device {args.device_id} removed{tasks}")
    return 0


def add_parser(subparsers: Any) -> None:
    """Add `devices` with its sub-commands."""
    parser = subparsers.add_parser("devices", help="list, drain and remove devices")
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    listing = inner.add_parser("list", help="list all devices with their latest heartbeat")
    add_json_option(listing)
    listing.set_defaults(run=run_list)
    for name, run, help_line in (
        ("drain", run_drain, "let a device finish its running tasks and take no new ones"),
        ("resume", run_resume, "let a drained device take tasks again"),
        ("remove", run_remove, "remove a device from the list"),
    ):
        command = inner.add_parser(name, help=help_line)
        command.add_argument("device_id", metavar="ID", help="id of the device")
        if name == "drain":
            command.add_argument("--undo", action="store_true", help="same as resume")
        if name == "remove":
            command.add_argument(
                "--force",
                action="store_true",
                help="also remove a device that is online; its tasks go back to the queue",
            )
        command.set_defaults(run=run)
