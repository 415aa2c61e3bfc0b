"""Databases with tables, copied from one that was made once: making the tables takes twenty times as long.

Each server of the park has a database that the others are copies of; SQLite's is one file for each test process.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers import MARIADB, SharedServer

ROOT = Path(__file__).parent.parent
TEMPLATE = "crawlfleet_template"


def make_template(server: SharedServer) -> None:
    """Make the database on this server that the others are copies of."""
    server.create_database(TEMPLATE)
    _make_tables(server.url(TEMPLATE))


def create_database_with_tables(server: SharedServer, name: str) -> str:
    """A database as `db upgrade` would leave it, on a server that has the template; returns `name`. About 20 ms."""
    if server.flavour is not MARIADB:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name
    statements = _statements_of_template(server.port)
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        for statement in statements:
            cursor.execute(statement)
    return name


@cache
def _statements_of_template(port: int) -> list[str]:
    """What makes the tables, the views and the first rows of the template, in a database of another name."""
    with contextlib.closing(MARIADB.connect(port, TEMPLATE)) as connection, connection.cursor() as cursor:

        def ask(statement: str) -> list[tuple[Any, ...]]:
            cursor.execute(statement)
            return list(cursor.fetchall())

        names = ask("SHOW FULL TABLES")
        tables = [name for name, kind in names if kind != "VIEW"]
        made = [ask(f"SHOW CREATE TABLE {name}")[0][1] for name in tables]
        filled = [name for name in tables if ask(f"SELECT COUNT(*) FROM {name}") != [(0,)]]
        views = [ask(f"SHOW CREATE VIEW {name}")[0][1] for name, kind in names if kind == "VIEW"]
    return [
        *made,
        *(f"INSERT INTO {name} SELECT * FROM {TEMPLATE}.{name}" for name in filled),
        *(view.replace(f"`{TEMPLATE}`.", "") for view in views),
    ]


def sqlite_url_with_tables(path: Path) -> str:
    """The URL of a new file with tables."""
    shutil.copyfile(_sqlite_template(), path)
    return f"sqlite:///{path}"


@cache
def _sqlite_template() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="crawlfleet-template-")
    _kept.append(folder)
    path = Path(folder.name) / "template.db"
    _make_tables(f"sqlite:///{path}")
    return path


_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _make_tables(url: str) -> None:
    """By a process of its own: Alembic is not made for threads, and a test may be migrating just now."""
    command = [sys.executable, str(ROOT / "main.py"), "db", "upgrade", "--database", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"no tables in {url}: {done.stderr}")
