"""Private brokers for the peers: Redis and RabbitMQ of Debian's packages, on loopback, thrown away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import debian_packages
from tests.ports import free_port
from tests.reaper import reaper
from tests.server_park import ServerMissing
from tests.servers import program
from tests.waiting import wait_until

START_SECONDS = 60
# what is in PATH gives root up for a user whose home it works in
RABBITMQ_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def redis(folder: Path, stack: ExitStack) -> str:
    """Nothing is written to disk, which suits the peers."""
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    stack.enter_context(running([program("redis-server"), *options], folder, port))
    return f"redis://127.0.0.1:{port}/0"


def rabbitmq(folder: Path, stack: ExitStack) -> str:
    """With an `epmd` of its own: the shared one would outlive us."""
    port, epmd_port, distribution_port = free_port(), free_port(), free_port()
    plugins = folder / "enabled_plugins"
    plugins.write_text("[].\n", encoding="utf-8")
    environ = {
        "HOME": str(folder),  # for the cookie
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
    }
    epmd = [program("epmd"), "-address", "127.0.0.1", "-port", str(epmd_port)]
    stack.enter_context(running(epmd, folder, epmd_port))
    stack.enter_context(running([RABBITMQ_PROGRAM], folder, port, environ))
    return f"amqp://guest:guest@127.0.0.1:{port}/%2F"  # the virtual host named /


@dataclass(frozen=True)
class Broker:
    """`start` starts one for as long as the stack lives and returns its URL."""

    title: str
    package: str  # Debian's
    program: str
    start: Callable[[Path, ExitStack], str]


BROKERS = {
    "redis": Broker("Redis", "redis-server", "redis-server", redis),
    "rabbitmq": Broker("RabbitMQ", "rabbitmq-server", RABBITMQ_PROGRAM, rabbitmq),
}


def ensure_installed(broker: Broker) -> None:
    """Install the package when it is missing and we may. Raises ServerMissing with what to do."""
    if is_installed(broker):
        return
    reason = f"{broker.title} is not installed ({broker.program} not found)"
    if debian_packages.may_install():
        try:
            debian_packages.install([broker.package])
        except subprocess.CalledProcessError as error:
            reason = f"{reason} and apt-get failed: {error}"
        if is_installed(broker):
            return
    raise ServerMissing(f"{reason}; install it: apt-get install {broker.package}")


def is_installed(broker: Broker) -> bool:
    """True when its program is found."""
    try:
        return bool(program(broker.program))
    except FileNotFoundError:
        return False


@contextmanager
def running(command: list[str], folder: Path, port: int, environ: dict[str, str] | None = None) -> Iterator[None]:
    """The server, from when it takes connections; killed with the block, or when this program is."""
    log_path = folder / f"{Path(command[0]).name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    reaper.watch(process.pid)
    try:
        wait_until(lambda: process.poll() is not None or answers(port), START_SECONDS, f"{command[0]} on port {port}")
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} did not start:\n{log_path.read_text(errors='replace')[-3000:]}")
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reaper.forget(process.pid)


def answers(port: int) -> bool:
    """True when something takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
