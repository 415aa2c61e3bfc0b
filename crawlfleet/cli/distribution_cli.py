"""`distribute`: run a device in one of three modes, ask for the fleet's state, write and check config files."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from crawlfleet.cli.arguments import add_json_option, settings_from
from crawlfleet.cli.moments import screen
from crawlfleet.cli.output import BAD, cell, local_time, print_json, print_table, print_text, say
from crawlfleet.core.errors import UsageError
from crawlfleet.core.logs import configure_logging
from crawlfleet.core.private_files import write_private
from crawlfleet.core.wakeup import HANGUP, ending_signals
from crawlfleet.model.lifecycle import TaskStatus
from crawlfleet.settings.definitions import ENGINES, MODES, RULES, STRATEGIES, Settings
from crawlfleet.settings.display import describe, to_toml
from crawlfleet.settings.layers import load_settings, require_device_id
from crawlfleet.settings.older_names import OLD_NAMES, WITHOUT_EFFECT

log = logging.getLogger(__name__)
startup_log = logging.getLogger("__main__")

MODE_HELP = {
    "standalone": "run a node that takes tasks by itself",
    "master": "run a node that assigns tasks to workers",
    "worker": "run a node that takes its tasks from a master",
}
SUBCOMMANDS = (*MODES, "status", "config")
# Options of scripts written for the earlier implementation; each gives one notice.
OLD_OPTIONS = ("max_tasks_per_device", "task_pull_limit", "master_host", "master_port", "api_key")


def print_startup_info(settings: Settings) -> None:
    """Log the block that opens every run of a node."""
    startup_log.info("启动配置信息:")
    startup_log.info("代理状态: %s", "开启" if settings.use_proxy else "关闭")
    startup_log.info("进程数: %d", settings.effective_processes)
    startup_log.info("每进程线程数: %d", settings.effective_threads)
    startup_log.info("最大重试次数: %d", settings.max_retry)
    startup_log.info("重试延迟: %g秒", settings.retry_delay_seconds)


class DistributionCLI:
    """The commands behind `distribute`; each takes the parsed arguments and returns an exit code."""

    def load_config(self, path: str | Path | None = None, **kwargs: Any) -> Settings:
        """Return the settings from the file, the environment and `kwargs` (names, old ones too; None: not given)."""
        return load_settings(path, kwargs)

    def run_standalone(self, args: argparse.Namespace) -> int:
        """Run a self-contained node until it is told to stop."""
        return self._run_node(args, "standalone")

    def run_worker(self, args: argparse.Namespace) -> int:
        """Run a node that calls itself a worker."""
        return self._run_node(args, "worker")

    def run_master(self, args: argparse.Namespace) -> int:
        """Run a node that calls itself a master."""
        return self._run_node(args, "master")

    def _run_node(self, args: argparse.Namespace, mode: str) -> int:
        settings = self.load_config(args.config, **given_settings(args) | {"mode": mode})
        require_device_id(settings)
        configure_logging(settings.log_file, debug=args.debug)
        print_startup_info(settings)
        for notice in settings.notices:
            log.warning("%s", notice)
        from crawlfleet.api.distribution_api import init_distribution_services, start_distribution_services

        with stop_signals() as stop:
            node = init_distribution_services(mode, settings.device_id, settings, args.until_idle, args.takeover)
            stop.handler = lambda _number, _frame: node.end()
            server = start_distribution_services(node)
            try:
                log.info("%s node started", mode.capitalize())
                log.info("times of this log are in %s", screen.zone)
                return node.wait()
            finally:
                if server is not None:
                    server.stop()

    def run_status(self, args: argparse.Namespace) -> int:
        """Print the state of the fleet."""
        for notice in load_settings(None, given_settings(args) | {"database_url": None}, environ={}).notices:
            log.warning("%s", notice)
        from crawlfleet.cli.database import existing_database
        from crawlfleet.insights.explain import utc_text
        from crawlfleet.insights.overview import fleet_status
        from crawlfleet.planning.tariff import tariff_of

        with existing_database(args) as db:
            when = utc_text if args.json else local_time
            status = fleet_status(db, tariff_of(settings_from(args)).reports_of, when)
        if args.json:
            print_json(status)
        else:
            print_status(status)
        return 0

    def run_config(self, args: argparse.Namespace) -> int:
        """Write a config file, show the settings in effect, or check a file."""
        given = given_settings(args) | {"mode": args.mode}
        if args.validate:
            for notice in load_settings(args.validate, given, environ={}).notices:
                say(notice)
            say(f"{args.validate} is fine")
            return 0
        if args.show:
            return self._show(settings_from(args, **given), args.json)
        # Without the environment: its secrets stay where they are.
        settings = load_settings(args.config, given, environ={})
        for notice in settings.notices:
            say(notice)
        if args.output is None:
            print(to_toml(settings), end="")
        else:
            write_config(Path(args.output), to_toml(settings), args.force)
            say(f"wrote {args.output}")
        return 0

    def _show(self, settings: Settings, as_json: bool) -> int:
        described = describe(settings)
        if as_json:
            print_json({item.name: {"value": item.value, "origin": item.origin} for item in described})
        else:
            print_table(("setting", "value", "from"), [(item.name, item.value, item.origin) for item in described])
        return 0


class StopSignals:
    """Handles SIGINT, SIGTERM and SIGHUP: the first goes to the node, the second ends the process at once.

    Not a second SIGHUP: a terminal that is closed may send several, by its shell and by the kernel.
    """

    def __init__(self) -> None:
        self.handler: Callable[[int, FrameType | None], object] | None = None
        self._seen = False
        self._process = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        # Without a node, and in a process that a body forked, there is nothing to end in order.
        if self.handler is None or os.getpid() != self._process or (self._seen and signum != HANGUP):
            os._exit(128 + signum)
        if not self._seen:
            self._seen = True
            self.handler(signum, frame)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle SIGINT, SIGTERM and SIGHUP inside the block. Only a main thread can; in another thread nothing changes.

    A SIGHUP that was ignored before, as by nohup, stays so.
    """
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in ending_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings among the arguments, by their names; one that was not given is None or missing."""
    given = {
        key: value for key, value in vars(args).items() if key in RULES or key in OLD_NAMES or key in WITHOUT_EFFECT
    }
    return given | {"database_url": args.database}


def write_config(path: Path, text: str, force: bool) -> None:
    """Write a file that only its owner can read, since it may hold secrets; raises UsageError when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text, replace=force)
    except FileExistsError:
        raise UsageError(f"{path} exists: --force overwrites it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def print_status(status: Mapping[str, Any]) -> None:
    """Print the fleet's state for people; the verdict comes last, where the eye is."""
    from crawlfleet.cli.accounts.budget_table import print_budgets
    from crawlfleet.cli.devices_cli import print_devices
    from crawlfleet.model.budget import DAY_SECONDS

    print_devices(status["devices"])
    if budgets := [each for each in status["budgets"] if each["waiting"] or each["seconds"] >= DAY_SECONDS]:
        print("\nbudgets that allow no call now:")
        print_budgets(budgets)
    print()
    tasks = status["tasks"]
    counts = ", ".join(f"{count} {state}" for state, count in tasks.items())
    failed = tasks[TaskStatus.FAILED]
    print_text(f"tasks: {counts}", BAD if failed else None, f"{failed} failed")
    for line in status["blocked"]:
        if line not in status["verdict"]:  # which names the first ones
            print_text(f"blocked: {cell(line)}")
    print_text(cell(status["verdict"]))


def older_spelling(arguments: list[str]) -> list[str]:
    """Turn `distribute --mode standalone ...` and `distribute --status` into today's sub-commands."""
    before = ""
    for word in arguments:
        if word in SUBCOMMANDS and (before == "--debug" or not before.startswith("-")):
            return arguments  # a sub-command, not the value of an option
        before = word
    for index, word in enumerate(arguments):
        rest = arguments[:index] + arguments[index + 1 :]
        if word == "--status":
            return ["status", *rest]
        if word.startswith("--mode="):
            return [word.partition("=")[2], *rest]
        if word == "--mode" and len(arguments) > index + 1:
            return [arguments[index + 1], *arguments[:index], *arguments[index + 2 :]]
    return arguments


def add_parser(subparsers: Any) -> None:
    """Add `distribute` with its sub-commands."""
    commands = DistributionCLI()
    parser = subparsers.add_parser(
        "distribute", help="run a node, show the state of the fleet, write and check settings", rewrite=older_spelling
    )
    inner = parser.add_subparsers(title="sub-commands", dest="subcommand", metavar="COMMAND", required=True)
    for mode, run in zip(MODES, (commands.run_standalone, commands.run_master, commands.run_worker), strict=True):
        node = inner.add_parser(mode, help=MODE_HELP[mode])
        _add_setting_options(node)
        node.add_argument("--until-idle", action="store_true", help="exit when no tasks are left to run")
        node.add_argument("--takeover", action="store_true", help="take over a device id that still seems to be in use")
        node.add_argument(
            "--verbose", "-v", action="store_true", dest="debug", default=argparse.SUPPRESS, help="same as --debug"
        )
        node.set_defaults(run=run)
    status = inner.add_parser("status", help="show the state of the fleet")
    add_json_option(status)
    for option in ("--master-host", "--master-port", "--api-key"):
        status.add_argument(option, help=argparse.SUPPRESS)
    status.set_defaults(run=commands.run_status)
    config = inner.add_parser("config", help="write, show or check a config file")
    config.add_argument("--mode", choices=MODES, help="mode of the device")
    _add_setting_options(config)
    config.add_argument("--output", "-o", metavar="FILE", help="write there instead of to stdout")
    config.add_argument("--force", action="store_true", help="overwrite the file")
    task = config.add_mutually_exclusive_group()
    task.add_argument("--show", action="store_true", help="show every setting in effect and where it comes from")
    task.add_argument("--validate", metavar="FILE", help="check a config file")
    add_json_option(config)
    config.set_defaults(run=commands.run_config)


def _add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are settings. Their values stay text: `load_settings` checks them."""
    metavars = {"device_id": "ID", "device_name": "NAME", "concurrent_tasks": "N", "host": "HOST", "port": "PORT"}
    metavars["dask_scheduler"] = "ADDRESS"
    metavars |= {"engine": "|".join(ENGINES), "load_balance_strategy": "|".join(STRATEGIES)}
    for name in (
        "device_id",
        "device_name",
        "dispatch_interval",
        "heartbeat_interval",
        "concurrent_tasks",
        "load_balance_strategy",
        "engine",
        "dask_scheduler",
        "host",
        "port",
    ):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, metavar=metavars.get(name, "S"), help=_help_of(name))
    parser.add_argument("--executors", action="append", metavar="MODULE", help=_help_of("executors"))
    parser.add_argument("--label", action="append", dest="labels", metavar="LABEL", help=_help_of("labels"))
    monitoring = _help_of("enable_monitoring")
    parser.add_argument("--enable-monitoring", action="store_const", const=True, help=monitoring)
    parser.add_argument("--no-api", action="store_const", const=False, dest="api", help="do not serve the API")
    for name in OLD_OPTIONS:
        parser.add_argument("--" + name.replace("_", "-"), help=argparse.SUPPRESS)


def _help_of(name: str) -> str:
    return f"{RULES[name].help}: {RULES[name].allowed}".replace("%", "%%")
