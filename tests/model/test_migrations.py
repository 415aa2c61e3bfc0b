"""Bringing a database to our tables: once, by whoever comes first, and again after a start that was cut off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseRefused
from crawlfleet.doctor.database_checks import migration
from crawlfleet.model import migrations, schema
from tests.conftest import Backend
from tests.servers import SharedServer

DOCUMENTED = {  # the columns that users of the documented tables rely on; a count that can be asked is not stored
    "cl_device": "id device_id device_name device_type ip_address port status capabilities max_concurrent_tasks"
    " last_heartbeat created_at updated_at",
    "cl_crawl_task": "id task_type username app_id start_date end_date status priority task_data assigned_device_id"
    " assigned_at execution_timeout max_retry_count retry next_run_at created_at updated_at task_ret",
    "cl_task_assignment": "id task_id device_id assigned_at started_at completed_at status retry_count error_message"
    " result_data created_at updated_at",
    "cl_device_heartbeat": "id device_id heartbeat_time cpu_usage memory_usage disk_usage network_status running_tasks"
    " system_load error_count status_info created_at",
}
UPGRADE = "import sys; from crawlfleet.core.db import Database; from crawlfleet.model import migrations;"


@pytest.fixture
def empty(empty_backend: Backend) -> Iterator[Database]:
    """A database without tables."""
    database = Database(empty_backend.url).open()
    yield database
    database.close()


def assert_complete(db: Database) -> None:
    """The database is what `schema` says, with its view and its first rows, each once."""
    assert migrations.check(db) == schema.HEAD
    with db.plain.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert sa.inspect(connection).get_view_names() == ["v_app_data"]
        assert connection.execute(sa.text("SELECT COUNT(*) FROM v_app_data")).scalar_one() == 0
        facts = connection.execute(sa.text("SELECT name, value FROM cl_fleet_state ORDER BY name")).all()
        assert [tuple(fact) for fact in facts] == [("epoch", 0), ("paused", 0)]
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [schema.HEAD]


def test_migrations_make_what_the_schema_says(empty: Database) -> None:
    assert migrations.current(empty) is None
    with pytest.raises(DatabaseRefused, match="holds no tables of crawlfleet"):
        migrations.check(empty)
    assert migrations.upgrade(empty) is True
    assert migrations.upgrade(empty) is False
    assert_complete(empty)


def test_the_databases_of_tests_are_what_a_migration_makes(db: Database) -> None:
    assert_complete(db)


def test_partial_indexes_are_partial_where_there_are_any(db: Database) -> None:
    """Alembic does not compare them."""
    if db.family == "mysql":
        pytest.skip("MySQL and MariaDB have none")
    expected = {
        index.name: index.info["only"]
        for table in schema.metadata.tables.values()
        for index in table.indexes
        if "only" in index.info
    }
    catalogue = "sqlite_master" if db.family == "sqlite" else "pg_indexes"
    name, text = ("name", "sql") if db.family == "sqlite" else ("indexname", "indexdef")
    with db.plain.connect() as connection:
        found = dict(connection.exec_driver_sql(f"SELECT {name}, {text} FROM {catalogue}").all())
    assert expected
    for index, condition in expected.items():
        assert "WHERE" in found[index]
        assert condition.split(" ")[0] in found[index].split("WHERE")[1]


def test_the_documented_columns_exist(db: Database) -> None:
    with db.plain.connect() as connection:
        for table, columns in DOCUMENTED.items():
            found = {column["name"] for column in sa.inspect(connection).get_columns(table)}
            assert set(columns.split()) <= found


def test_tables_of_mysql_keep_transactions_and_compare_exactly(db: Database) -> None:
    if db.family != "mysql":
        pytest.skip("MySQL and MariaDB only")
    with db.plain.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT table_name, engine, table_collation FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND table_name LIKE 'cl\\_%%'"
        ).all()
        columns = connection.exec_driver_sql(
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND table_name LIKE 'cl\\_%%' AND collation_name IS NOT NULL"
        ).scalars()
        moments = connection.exec_driver_sql(
            "SELECT DISTINCT column_type FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND data_type IN ('datetime', 'timestamp')"
        ).scalars()
        assert {row[0] for row in tables} == set(schema.metadata.tables)
        assert {(row[1], row[2]) for row in tables} == {("InnoDB", "utf8mb4_bin")}
        assert set(columns) == {"utf8mb4_bin"}
        assert set(moments) == {"datetime(6)"}


def test_threads_that_start_together_upgrade_once(empty_backend: Backend) -> None:
    done: list[bool] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        try:
            barrier.wait()
            db = Database(empty_backend.url).open()
            done.append(migrations.upgrade(db))
            db.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(done) == [False, False, False, True]
    with contextlib.closing(Database(empty_backend.url)) as db:
        assert_complete(db)


def run_program(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.slow
def test_processes_that_start_together_upgrade_once(empty_backend: Backend) -> None:
    code = UPGRADE + (
        "db = Database(sys.argv[1]).open(); print('ready', flush=True); sys.stdin.readline();"
        "print(migrations.upgrade(db))"
    )
    nodes = [run_program(code, empty_backend.url) for _ in range(4)]
    for node in nodes:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
    for node in nodes:
        assert node.stdin is not None
        node.stdin.write("\n")
        node.stdin.flush()
    answers = [node.communicate(timeout=60) for node in nodes]
    assert sorted(out.strip() for out, _ in answers) == ["False", "False", "False", "True"], answers
    with contextlib.closing(Database(empty_backend.url)) as db:
        assert_complete(db)


class CutOff(BaseException):
    """A start that ends where it stands."""


def cut_off_at(db: Database, step: int, end: Callable[[], None]) -> Callable[..., None]:
    """Call `end` before the given statement that changes the database."""
    seen = 0

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal seen
        if statement.lstrip().upper().startswith(("CREATE", "INSERT", "ALTER", "UPDATE")):
            seen += 1
            if seen == step:
                end()

    event.listen(db.plain, "before_cursor_execute", look)
    return look


def test_an_upgrade_that_was_cut_off_anywhere_can_be_repeated(empty: Database) -> None:
    def end() -> None:
        raise CutOff

    cuts = 0
    for step in range(1, 100):
        look = cut_off_at(empty, step, end)
        try:
            migrations.upgrade(empty)
        except CutOff:
            cuts += 1
        finally:
            event.remove(empty.plain, "before_cursor_execute", look)
        if migrations.current(empty) == schema.HEAD:
            break
        assert migrations.current(empty) in {None, "0001"}  # MySQL commits each step by itself
    assert cuts > len(schema.metadata.tables)
    assert_complete(empty)


@pytest.mark.slow
def test_an_upgrade_whose_process_was_killed_can_be_repeated(empty: Database, empty_backend: Backend) -> None:
    code = (
        "import os, signal;"
        + UPGRADE
        + "from tests.model.test_migrations import cut_off_at; db = Database(sys.argv[1]).open();"
        "cut_off_at(db, 9, lambda: os.kill(os.getpid(), signal.SIGKILL)); migrations.upgrade(db)"
    )
    node = run_program(code, empty_backend.url)
    node.communicate(timeout=60)
    assert node.returncode == -signal.SIGKILL
    assert migrations.current(empty) is None
    assert migrations.upgrade(empty) is True
    assert_complete(empty)


def test_a_database_of_a_newer_program_is_refused_and_left_alone(db: Database) -> None:
    db.write(lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    with db.plain.connect() as connection:
        before = sorted(sa.inspect(connection).get_table_names())
    for attempt in (migrations.upgrade, migrations.check):
        with pytest.raises(DatabaseRefused, match=r"newer crawlfleet .migration 9999, .*: update this program"):
            attempt(db)
    assert migrations.current(db) == "9999"
    with db.plain.connect() as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == before


def test_the_head_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(migrations._configuration()).get_heads() == [schema.HEAD]


def test_somebody_else_who_upgrades_for_too_long_is_told_of(
    empty: Database, empty_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty.family == "sqlite":
        pytest.skip("SQLite has one writer, whom everybody waits for")
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECONDS", 1)
    with contextlib.closing(Database(empty_backend.url)) as other, migrations._lock(other):  # noqa: SIM117
        with pytest.raises(DatabaseRefused, match="another node is upgrading"):
            migrations.upgrade(empty)
    monkeypatch.undo()  # a busy server takes its time to give the lock of a closed connection back
    assert migrations.upgrade(empty) is True


def test_an_upgrade_logs_one_line(empty_backend: Backend) -> None:
    code = UPGRADE + (
        "from crawlfleet.core.logs import configure_logging; db = Database(sys.argv[1]).open(); configure_logging();"
        "migrations.upgrade(db); migrations.upgrade(db)"
    )
    _, errors = run_program(code, empty_backend.url).communicate(timeout=60)
    [line] = errors.splitlines()
    assert line.endswith(f"[INFO] model.migrations - Database upgraded from nothing to {schema.HEAD}")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    encoding: str, shared_postgresql: Callable[[], SharedServer]
) -> None:
    """One ended in a TypeError, with the other it went well until an emoji failed its task for good."""
    server = shared_postgresql()
    name = f"of_{encoding.lower()}"
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(DatabaseRefused, match=f"has the encoding {encoding}.*ENCODING 'UTF8' TEMPLATE template0"):
        Database(server.url(name)).open()
    server.drop_database(name)


@pytest.mark.parametrize("empty_backend", ["mariadb", "postgresql"], indirect=True)
def test_a_user_who_may_not_make_tables_is_told_what_to_grant(empty_backend: Backend) -> None:
    """PostgreSQL 15 gives nobody CREATE on schema public: `db upgrade` showed raw SQL and an address."""
    server = empty_backend.server
    assert server is not None
    name = empty_backend.url.rpartition("/")[2]
    user, at = f"guest_{name}", "" if empty_backend.name == "postgresql" else "@'127.0.0.1'"
    server.execute(f"CREATE USER {user}{at}")
    if not at:
        with server.connect(name) as connection:
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    else:
        server.execute(f"GRANT SELECT ON {name}.* TO {user}{at}")
    db = Database(empty_backend.url.replace("root@", f"{user}@").replace("postgres@", f"{user}@")).open()
    wanted = "CREATE on schema public.*GRANT CREATE" if not at else "ALTER, CREATE.*GRANT ALL ON"
    with pytest.raises(DatabaseRefused, match=wanted):
        migrations.upgrade(db)
    told = [each for each in migration(db) if each.status == "FAIL"]
    assert [each.finding.startswith("the user of the URL may not make tables") for each in told] == [True]
    assert "sqlalche.me" not in str(sa.exc.OperationalError("SELECT 1", None, Exception("no"), hide_parameters=True))
    db.close()
    server.execute(f"DROP USER {user}{at}")
