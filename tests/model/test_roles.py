"""The roles of docs/hardening.md, as its SQL makes them: one upgrades, one runs, one reads figures."""

from __future__ import annotations

import contextlib
import re
from datetime import date
from pathlib import Path

import pytest

from crawlfleet.core.account import Account
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.vendor_data import Figures, ReportRange
from crawlfleet.model import migrations
from crawlfleet.services.fleet import connect
from tests.conftest import Backend
from tests.stored_figures import store

PAGE = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
POSTGRESQL_SQL, MARIADB_SQL, BI_SQL = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
REFUSED = r"(?i)denied|must be owner|cannot update view"
MAKE = "CREATE TABLE mine (id INTEGER)"
DAY = date(2026, 1, 1)


def run(backend: Backend, name: str, text: str) -> None:
    """Execute a block of the page with the names of this test's database and roles, since a server has many."""
    assert backend.server is not None
    text = re.sub(r"\bcrawlfleet_(owner|node|bi)\b", rf"{name}_\1", text)
    text = re.sub(r"\b(DATABASE )crawlfleet\b|\bcrawlfleet(\.\*)", rf"\g<1>{name}\g<2>", text)
    if backend.name == "mariadb":
        text = re.sub(r"ON (\w+) TO (\w+)", rf"ON {name}.\1 TO \2@'%'", text).replace("@'%'", "@'127.0.0.1'")
    with contextlib.closing(backend.server.connect(name)) as connection, connection.cursor() as cursor:
        for statement in filter(str.strip, re.sub(r"--.*", "", text).split(";")):
            cursor.execute(statement)


def url(backend: Backend, name: str, role: str, number: int) -> str:
    return re.sub(r"//\w+@", f"//{name}_{role}:CHANGE-ME-{number}@", backend.url)


@pytest.mark.parametrize("empty_backend", ["mariadb", "postgresql"], indirect=True)
def test_the_documented_roles_can_do_their_work_and_nothing_more(empty_backend: Backend) -> None:
    """Every node could drop the tables, and a report could read where tokens are."""
    backend, name = empty_backend, empty_backend.url.rpartition("/")[2]
    run(backend, name, MARIADB_SQL if backend.name == "mariadb" else POSTGRESQL_SQL)
    owner = Database(url(backend, name, "owner", 1)).open()
    migrations.upgrade(owner)
    run(backend, name, BI_SQL)

    fleet = connect(url(backend, name, "node", 2))
    fleet.accounts.add(Account("appsflyer", "u", token_env="U_TOKEN"))
    fleet.add_task("noop", username="u")
    store(fleet.db, ReportRange("appsflyer", "u", "a", "r", DAY, DAY), [Figures(DAY, installs=3)])
    refused(
        fleet.db, "DROP TABLE cl_app_data", "CREATE TABLE mine (id INTEGER)", "ALTER TABLE cl_account ADD x INTEGER"
    )

    bi = Database(url(backend, name, "bi", 3)).open()
    with bi.read() as reader:
        assert reader.exec_driver_sql("SELECT username, installs FROM v_app_data").all() == [("u", 3)]
        for table in ("cl_user_app", "cl_coverage", "cl_restatement"):
            reader.exec_driver_sql(f"SELECT * FROM {table}").all()
    secrets = [f"SELECT * FROM {table}" for table in ("cl_account", "cl_api_token", "cl_crawl_task", "cl_app_data")]
    refused(
        bi, *secrets, "DELETE FROM cl_coverage", "UPDATE v_app_data SET installs = 0", "CREATE TABLE mine (id INTEGER)"
    )
    for db in (owner, fleet.db, bi):
        db.close()


def refused(db: Database, *statements: str) -> None:
    for statement in statements:
        with (
            pytest.raises(DatabaseUnreachable, match=REFUSED),
            db.read() as reader,
        ):
            reader.exec_driver_sql(statement)
