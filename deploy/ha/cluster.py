#!/usr/bin/env python3
"""A highly available PostgreSQL on one machine, to try out what happens when a node of it is lost.

    python3 deploy/ha/cluster.py start /tmp/ha     three etcd, three Patroni, three PostgreSQL, on free loopback ports
    python3 deploy/ha/cluster.py status /tmp/ha
    python3 deploy/ha/cluster.py kill /tmp/ha      kill -9 all of the node that is the primary now
    python3 deploy/ha/cluster.py revive /tmp/ha    start the killed nodes again
    python3 deploy/ha/cluster.py stop /tmp/ha      end everything; the directory may be removed then

Debian: apt-get install patroni python3-etcd etcd-server postgresql; their services are not needed here.
As root it runs everything as the user postgres. On three real machines the same two programs run with the same
configuration, patroni.yml.in, as services; docs/high-availability.md tells how. Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

NAMES = ("one", "two", "three")
HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 30
DATABASE = "crawlfleet"
TEMPLATE = Path(__file__).with_name("patroni.yml.in")
PROGRAMS = ("etcd", "patroni", "postgres", "psql")


class ClusterError(Exception):
    """Something did not happen in time, or is not installed."""


def program(name: str) -> str:
    """The full path of a program; raises ClusterError."""
    newest = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*newest, os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise ClusterError(f"{name} is not installed: apt-get install patroni python3-etcd etcd-server postgresql")
    return found


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now, below those that outgoing connections take while a server is down."""
    ports: set[int] = set()
    while len(ports) < count:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port := random.randint(20_000, 32_000)))
            ports.add(port)
    return list(ports)


class Cluster:
    """Three nodes in a directory, which remembers ports, passwords and process ids in cluster.json."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "cluster.json"
        self.state: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def url(self) -> str:
        """The database for crawlfleet: all hosts, of which the one that takes writes is used."""
        hosts = ",".join(f"{HOST}:{node['port']}" for node in self.state["nodes"].values())
        return f"postgresql://crawlfleet:{self.state['passwords']['crawlfleet']}@{hosts}/{DATABASE}"

    def start(self) -> None:
        """Start all and make the user and the database; raises ClusterError."""
        for name in PROGRAMS:
            program(name)
        if self.state:
            raise ClusterError(f"{self.directory} holds a cluster already: stop it and remove the directory")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        ports = iter(free_ports(4 * len(NAMES)))
        kinds = ("port", "api", "client", "peer")
        self.state = {
            "nodes": {name: {**{kind: next(ports) for kind in kinds}, "pids": {}} for name in NAMES},
            "passwords": {user: secrets.token_hex(16) for user in ("postgres", "replicator", "crawlfleet")},
        }
        for name in NAMES:
            self._prepare(name)
        for name in NAMES:
            self._start_etcd(name, "new")
        for name in NAMES:
            self._start_patroni(name)
        self.wait_for_primary()
        self._sql(f"CREATE ROLE crawlfleet LOGIN PASSWORD '{self.state['passwords']['crawlfleet']}'")
        self._sql(f"CREATE DATABASE {DATABASE} OWNER crawlfleet")
        self.wait_for_standbys(2)

    def _prepare(self, name: str) -> None:
        node, passwords = self.state["nodes"][name], self.state["passwords"]
        home = self.directory / name
        home.mkdir(mode=0o700)
        text = Template(TEMPLATE.read_text()).substitute(
            NAME=name,
            HOST=HOST,
            PORT=node["port"],
            API_PORT=node["api"],
            ETCD_HOSTS=",".join(f"{HOST}:{each['client']}" for each in self.state["nodes"].values()),
            DATA_DIR=home / "data",
            SOCKET_DIR=home,
            BIN_DIR=Path(program("postgres")).parent,
            NETWORK=f"{HOST}/32",
            SUPERUSER_PASSWORD=passwords["postgres"],
            REPLICATION_PASSWORD=passwords["replicator"],
        )
        (home / "patroni.yml").write_text(text)
        if os.geteuid() == 0:
            for path in (home, home / "patroni.yml"):
                shutil.chown(path, "postgres", "postgres")

    def _start_etcd(self, name: str, state: str) -> None:
        node = self.state["nodes"][name]
        peers = ",".join(f"{each}=http://{HOST}:{other['peer']}" for each, other in self.state["nodes"].items())
        self._run(
            name,
            "etcd",
            f"--name={name}",
            f"--data-dir={self.directory / name / 'etcd'}",
            f"--listen-client-urls=http://{HOST}:{node['client']}",
            f"--advertise-client-urls=http://{HOST}:{node['client']}",
            f"--listen-peer-urls=http://{HOST}:{node['peer']}",
            f"--initial-advertise-peer-urls=http://{HOST}:{node['peer']}",
            f"--initial-cluster={peers}",
            f"--initial-cluster-state={state}",
            "--initial-cluster-token=crawlfleet",
        )

    def _start_patroni(self, name: str) -> None:
        self._run(name, "patroni", str(self.directory / name / "patroni.yml"))

    def _run(self, name: str, what: str, *arguments: str) -> None:
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()}
        with (self.directory / f"{name}-{what}.log").open("ab") as log:
            process = subprocess.Popen(
                [program(what), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory / name,
                start_new_session=True,
                **options,
            )
        self.state["nodes"][name]["pids"][what] = process.pid
        self._file.touch(mode=0o600)
        self._file.write_text(json.dumps(self.state, indent=1))

    def role(self, name: str) -> dict[str, Any]:
        """What the Patroni of this node says of itself; empty when it says nothing."""
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{self.state['nodes'][name]['api']}/patroni", timeout=3
            ) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:  # 503 with the same content: it is not running yet
            with contextlib.suppress(ValueError):
                return dict(json.load(error))
        except (OSError, ValueError):
            pass
        return {}

    def primary(self) -> str | None:
        """The node that is the primary now."""
        roles = {name: self.role(name) for name in NAMES}
        return next(
            (n for n, r in roles.items() if r.get("role") in {"master", "primary"} and r.get("state") == "running"),
            None,
        )

    def standbys(self) -> list[dict[str, Any]]:
        """The standbys that stream from the primary, as it sees them."""
        primary = self.primary()
        return [] if primary is None else list(self.role(primary).get("replication", []))

    def wait_for_primary(self, other_than: str | None = None) -> str:
        """The name of the primary once there is one."""
        return self._wait(lambda: (found := self.primary()) != other_than and found, "a primary")

    def wait_for_standbys(self, count: int) -> None:
        """Until so many standbys stream, one of them synchronously: from then on nothing acknowledged can be lost."""
        self._wait(
            lambda: len(found := self.standbys()) >= count and any(each.get("sync_state") == "sync" for each in found),
            f"{count} standbys, one of them synchronous",
        )

    def _wait(self, condition: Any, what: str) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise ClusterError(f"no {what} within {START_SECONDS} s: see the logs in {self.directory}")
            time.sleep(0.2)
        return found

    def _sql(self, statement: str) -> str:
        primary = self.wait_for_primary()
        return subprocess.run(
            [
                program("psql"),
                "-h",
                HOST,
                "-p",
                str(self.state["nodes"][primary]["port"]),
                "-U",
                "postgres",
                "-tAqc",
                statement,
            ],
            env={**os.environ, "PGPASSWORD": self.state["passwords"]["postgres"]},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        ).stdout

    def kill(self) -> str:
        """kill -9 Patroni, PostgreSQL and etcd of the primary's node, as if its machine had lost power; its name."""
        name = self.wait_for_primary()
        ours = filter(self._is_alive, self.state["nodes"][name]["pids"].values())
        for pid in (*ours, *self._postgres_of(name)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return name

    def _postgres_of(self, name: str) -> Iterator[int]:
        """The postmaster of a node, and all its children."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            postmaster = int((self.directory / name / "data" / "postmaster.pid").read_text().split()[0])
            if not self._is_alive(postmaster):
                return
            yield postmaster
            for children in Path(f"/proc/{postmaster}/task").glob("*/children"):
                yield from map(int, children.read_text().split())

    def revive(self) -> None:
        """Start what was killed; a former primary joins again as a standby."""
        for name, node in self.state["nodes"].items():
            for what, start in (("etcd", lambda n: self._start_etcd(n, "existing")), ("patroni", self._start_patroni)):
                if not self._is_alive(node["pids"][what]):
                    start(name)
        self.wait_for_standbys(2)

    def stop(self) -> None:
        """End everything, the standbys first; harmless when it has ended."""
        if not self.state:
            return
        primary = self.primary()
        for what in ("patroni", "etcd"):
            for name in sorted(NAMES, key=lambda each: each == primary):
                self._end(self.state["nodes"][name]["pids"].get(what, 0))
                for pid in self._postgres_of(name) if what == "patroni" else ():  # of a killed Patroni
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _is_alive(self, pid: int) -> bool:
        """Whether the process runs, and is one of ours: after a while its number may be another's."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # a killed child of ours would stay as a zombie
        try:
            return str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _end(self, pid: int) -> None:
        """Let a process end in order, or kill it when it takes too long."""
        deadline = time.monotonic() + STOP_SECONDS
        if self._is_alive(pid):
            os.kill(pid, signal.SIGTERM)
        while self._is_alive(pid):
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                return
            time.sleep(0.05)

    def status(self) -> str:
        """What each node is."""
        lines = [self.url]
        for name in NAMES:
            role = self.role(name)
            port = self.state["nodes"][name]["port"]
            lines.append(f"{name:6} port {port}  {role.get('role', 'away')}  {role.get('state', '')}")
        lines += [f"  streams to {each['application_name']}: {each['sync_state']}" for each in self.standbys()]
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="A highly available PostgreSQL on one machine, to try things out.")
    parser.add_argument("command", choices=("start", "status", "kill", "revive", "stop"))
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    cluster = Cluster(arguments.directory.absolute())
    if arguments.command != "start" and not cluster.state:
        print(f"no cluster in {arguments.directory}: start one", file=sys.stderr)
        return 2
    try:
        if arguments.command == "kill":
            print(f"killed {cluster.kill()}")
        elif arguments.command != "status":
            getattr(cluster, arguments.command)()
        if arguments.command in {"start", "status", "revive"}:
            print(cluster.status())
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
