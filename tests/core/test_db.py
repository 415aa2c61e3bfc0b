"""The database layer against real servers: sessions, retries, lost connections and lost replies."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from crawlfleet.core import database_url
from crawlfleet.core import db as db_module
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseRefused, DatabaseUnreachable
from crawlfleet.core.sql import json_rows, stamp, utc
from crawlfleet.core.transaction import Reader, Statements, Transaction
from tests.conftest import Backend
from tests.ports import free_port
from tests.servers import MARIADB
from tests.tcp_proxy import TcpProxy

OpenDatabase = Callable[[str], Database]
SECRET = "geheim-7281"


def need_server(backend: Backend) -> None:
    if backend.server is None:
        pytest.skip("a file has no server")


def insert(connection: Transaction, number: int, word: str | None = None) -> None:
    connection.execute(sa.text("INSERT INTO cl_note (id, word) VALUES (:id, :word)"), {"id": number, "word": word})


def notes(db: Database) -> list[int]:
    with db.read() as connection:
        return sorted(connection.execute(sa.text("SELECT id FROM cl_note")).scalars())


def session_of(connection: Statements) -> int:
    call = "CONNECTION_ID()" if connection.dialect.family == "mysql" else "pg_backend_pid()"
    return int(connection.execute(sa.text(f"SELECT {call}")).scalar_one())


def kill(backend: Backend, session: int) -> None:
    """End a session at the server, and wait until it is gone."""
    assert backend.server is not None
    mysql = backend.server.flavour is MARIADB
    look = "information_schema.processlist WHERE id" if mysql else "pg_stat_activity WHERE pid"
    with contextlib.closing(backend.server.connect()) as other, other.cursor() as cursor:
        cursor.execute(f"KILL {session}" if mysql else f"SELECT pg_terminate_backend({session})")
        for _ in range(200):
            cursor.execute(f"SELECT COUNT(*) FROM {look} = {session}")
            if cursor.fetchone()[0] == 0:
                return
            time.sleep(0.01)
    raise AssertionError(f"session {session} lives on")


# --- who answers


def test_open_knows_the_server(backend: Backend, open_database: OpenDatabase) -> None:
    found = open_database(backend.url)
    assert found.product == {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}[backend.name]
    assert found.version[0].isdigit()


def test_a_server_that_is_too_old_is_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for product in db_module.OLDEST:
        monkeypatch.setitem(db_module.OLDEST, product, (99, 7))
    with pytest.raises(DatabaseRefused, match=r"is too old: crawlfleet needs 99\.7 or newer"):
        Database(backend.url).open(wait_seconds=60)


def test_nobody_listening_is_unreachable(backend: Backend) -> None:
    need_server(backend)
    url = backend.url_at(free_port()).replace("@", f":{SECRET}@")
    with pytest.raises(DatabaseUnreachable, match="check address, user, password and network") as caught:
        Database(url).open()
    assert SECRET not in f"{caught.value} {caught.value!r}"
    with pytest.raises(DatabaseUnreachable):
        Database(url).write(lambda connection: None)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".invalid"], ids=["unknown", "impossible"])
@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_an_unknown_host_is_unreachable(scheme: str, host: str) -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Database(f"{scheme}://u:{SECRET}@{host}/d").open()
    assert SECRET not in f"{caught.value} {caught.value!r}"


def test_a_missing_database_is_to_be_created(backend: Backend) -> None:
    need_server(backend)
    assert backend.server is not None
    with pytest.raises(DatabaseUnreachable, match="create it first: CREATE DATABASE nowhere"):
        Database(backend.server.url("nowhere")).open()


def test_open_waits_for_a_server_that_starts_later(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    need_server(backend)
    assert backend.server is not None
    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        proxy.refuse()
        timer = threading.Timer(0.7, proxy.accept)
        timer.start()
        Database(backend.url_at(proxy.port)).open(wait_seconds=30).close()
        timer.join()
    assert sum("trying for" in record.message for record in caplog.records) == 1


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database at all, but long enough to look at: " * 100)
    for path, cause in (
        (tmp_path / "missing" / "a.db", "unable to open database file: check that the folder exists"),
        (tmp_path, "unable to open database file: check that the folder exists"),
        (text, "file is not a database: name another file"),
    ):
        with pytest.raises(DatabaseUnreachable, match=cause):
            Database(f"sqlite:///{path}").open()
    assert text.read_text().startswith("no database")


def test_a_file_that_cannot_be_written_says_why(tmp_path: Path, open_database: OpenDatabase) -> None:
    open_database(f"sqlite:///{tmp_path}/a.db").write(lambda c: c.execute(sa.text("CREATE TABLE t (a)")))
    found = open_database(f"sqlite:///file:{tmp_path}/a.db?mode=ro&uri=true")
    with pytest.raises(DatabaseUnreachable, match="readonly database: check that the folder exists, is writable"):
        found.write(lambda c: c.execute(sa.text("INSERT INTO t VALUES (1)")))


def test_a_damaged_file_says_so(tmp_path: Path, open_database: OpenDatabase) -> None:
    path = tmp_path / "a.db"
    found = open_database(f"sqlite:///{path}")
    found.write(lambda c: c.execute(sa.text("CREATE TABLE t (a)")))
    found.write(lambda c: c.execute(sa.text("INSERT INTO t VALUES (:a)"), {"a": "x" * 20_000}))
    found.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with (
        pytest.raises(DatabaseUnreachable, match="malformed: restore the file from a backup"),
        found.read() as connection,
    ):
        connection.exec_driver_sql("SELECT * FROM t").all()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        try:
            barrier.wait()
            db = Database(f"sqlite:///{tmp_path}/a.db").open()
            db.write(lambda c: c.execute(sa.text("CREATE TABLE IF NOT EXISTS t (a)")))
            db.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- what a session is like


def test_a_session_reads_what_was_committed_and_thinks_in_utc(db: Database) -> None:
    if db.family == "sqlite":
        pytest.skip("SQLite has one writer, and its clock is UTC")
    ask = {
        "mysql": "SELECT @@tx_isolation, @@time_zone",
        "postgresql": "SELECT current_setting('transaction_isolation'), current_setting('timezone')",
    }[db.family]
    level, zone = db.write(lambda connection: connection.execute(sa.text(ask)).one())
    assert level.upper().replace("-", " ") == "READ COMMITTED"
    assert zone in {"UTC", "+00:00"}
    if db.family == "postgresql":
        assert db.write(lambda connection: connection.execute(sa.text("SHOW jit")).scalar_one()) == "off"


def test_a_long_read_sees_what_others_commit_meanwhile(db: Database) -> None:
    count = sa.text("SELECT COUNT(*) FROM cl_note")
    kept = db.connect()
    try:
        with db.read() as connection:
            seen = [(connection.execute(count).scalar_one(), kept.execute(count).scalar_one())]
            db.write(lambda other: insert(other, 1))
            seen.append((connection.execute(count).scalar_one(), kept.execute(count).scalar_one()))
    finally:
        kept.close()
    assert seen == [(0, 0), (1, 1)]


def test_the_clock_is_the_databases_and_in_utc(db: Database) -> None:
    with db.read() as connection:
        first, second = (connection.ask_clock().read().now for _ in range(2))
    assert first.tzinfo is UTC
    assert abs((first - datetime.now(UTC)).total_seconds()) < 60
    assert second >= first


def test_the_clock_goes_on_within_a_transaction(db: Database) -> None:
    def work(connection: Transaction) -> tuple[datetime, datetime]:
        first = connection.ask_clock().read().now
        time.sleep(0.005)
        return first, connection.ask_clock().read().now

    first, second = db.write(work)
    assert second > first


def test_moments_keep_their_microseconds(db: Database) -> None:
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=UTC)  # an hour that many zones skip

    def work(connection: Transaction) -> None:
        at = db.dialect.moment("at")
        connection.execute(sa.text(f"INSERT INTO cl_note (id, at) VALUES (1, {at})"), {"at": stamp(moment)})
        source = db.dialect.rows(id="int", at="moment")
        statement = sa.text(f"INSERT INTO cl_note (id, at) SELECT id, at FROM {source}")
        connection.execute(statement, {"rows": json_rows([(2, moment), (3, None)])})

    db.write(work)
    with db.read() as connection:
        found = connection.execute(sa.text("SELECT at FROM cl_note ORDER BY id")).scalars().all()
        before = connection.execute(
            sa.text(f"SELECT COUNT(*) FROM cl_note WHERE at < {db.dialect.moment('at')}"),
            {"at": stamp(moment.replace(microsecond=123457))},
        ).scalar_one()
    assert [utc(value) for value in found] == [moment, moment, None]
    assert before == 2


def test_moments_travel_as_utc_text_of_one_width_so_that_sqlite_can_compare_them() -> None:
    whole = datetime(2026, 1, 31, 8, 0, tzinfo=timezone(timedelta(hours=8)))
    assert stamp(whole) == "2026-01-31 00:00:00.000000"
    assert stamp(whole.replace(microsecond=5)) == "2026-01-31 00:00:00.000005"


def test_text_compares_exactly_and_may_hold_any_character(db: Database) -> None:
    words = ["a", "A", "ä", "á", "用户", "𝄞😀", "ß", "ss", "%_", "x'\"\\;--"]
    source = db.dialect.rows(id="int", word="text")

    def work(connection: Transaction) -> None:
        statement = sa.text(f"INSERT INTO cl_note (id, word) SELECT id, word FROM {source}")
        connection.execute(statement, {"rows": json_rows(enumerate(words))})

    db.write(work)
    with db.read() as connection:
        for number, word in enumerate(words):
            plain = connection.execute(sa.text("SELECT id FROM cl_note WHERE word = :word"), {"word": word})
            joined = connection.execute(
                sa.text(f"SELECT n.id FROM cl_note n JOIN {source} ON n.word = v.word"),
                {"rows": json_rows([(0, word)])},
            )
            assert plain.scalars().all() == joined.scalars().all() == [number]


def test_the_row_count_is_that_of_rows_matched(db: Database) -> None:
    def work(connection: Transaction) -> list[int]:
        insert(connection, 1, "same")
        insert(connection, 2, "same")
        joined = db.dialect.update_from(
            "cl_note", {"word": "v.word"}, db.dialect.rows(id="int", word="text"), "t.id = v.id AND t.id < 9"
        )
        return [
            connection.execute(sa.text("UPDATE cl_note SET word = 'same'")).rowcount,
            connection.execute(sa.text("UPDATE cl_note SET word = 'same' WHERE id > 5")).rowcount,
            connection.execute(sa.text(joined), {"rows": json_rows([(1, "same"), (2, "same"), (3, "x")])}).rowcount,
            connection.execute(sa.text(joined), {"rows": json_rows([(3, "x")])}).rowcount,
        ]

    assert db.write(work) == [2, 0, 2, 0]


def test_work_that_raises_leaves_nothing_behind(db: Database) -> None:
    def work(connection: Transaction) -> None:
        insert(connection, 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        db.write(work)
    with pytest.raises(sa.exc.IntegrityError):
        db.write(lambda connection: [insert(connection, 2), insert(connection, 2)])
    assert notes(db) == []


def test_a_far_mariadb_is_asked_as_seldom_as_possible(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is a round trip of perhaps 100 ms."""
    if db.family != "mysql":
        pytest.skip("counts PyMySQL's requests")
    import pymysql

    requests: list[object] = []
    original = pymysql.connections.Connection._execute_command

    def counted(self: Any, command: int, text: str | bytes) -> None:
        requests.append(text)
        original(self, command, text)

    db.write(lambda connection: insert(connection, 1))
    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", counted)
    db.write(lambda connection: insert(connection, 2))
    assert len(requests) == 2, requests  # BEGIN with the statement, and COMMIT
    requests.clear()
    notes(db)
    assert len(requests) == 1, requests


# --- somebody else is in the way


def test_a_deadlock_is_tried_again(db: Database) -> None:
    if db.family == "sqlite":
        pytest.skip("SQLite has one writer at a time, so no deadlocks")
    db.write(lambda connection: [insert(connection, 1, ""), insert(connection, 2, "")])
    barrier = threading.Barrier(2, timeout=20)
    attempts: list[str] = []

    def change(name: str, first: int, second: int) -> Callable[[Transaction], None]:
        def work(connection: Transaction) -> None:
            attempts.append(name)
            append = sa.text("UPDATE cl_note SET word = CONCAT(word, CAST(:name AS CHAR(1))) WHERE id = :id")
            connection.execute(append, {"id": first, "name": name})
            connection.send()
            if attempts.count(name) == 1:
                barrier.wait()  # both hold their first row and now want the other's
            connection.execute(append, {"id": second, "name": name})

        return work

    other = threading.Thread(target=lambda: db.write(change("b", 2, 1)))
    other.start()
    db.write(change("a", 1, 2))
    other.join()
    assert len(attempts) == 3
    with db.read() as connection:
        words = connection.execute(sa.text("SELECT word FROM cl_note")).scalars().all()
    assert [sorted(word) for word in words] == [["a", "b"]] * 2


def test_a_busy_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db_module, "LOCK_WAIT_SECONDS", 0)
    db = Database(f"sqlite:///{tmp_path}/a.db").open()
    db.write(lambda connection: connection.execute(sa.text("CREATE TABLE t (a)")))
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            holder.execute("ROLLBACK")

    monkeypatch.setattr(db_module, "pause", let_go)
    assert db.write(lambda connection: connection.execute(sa.text("INSERT INTO t VALUES (1)")).rowcount) == 1
    assert len(waits) == 3
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnreachable, match="locked: look for another program"):
        db.write(lambda connection: None)
    holder.close()
    db.close()


def test_a_pool_in_which_all_are_busy_is_unreachable(backend: Backend) -> None:
    db = Database(backend.url, pool_size=1).open()
    db.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(db.read())
        with pytest.raises(DatabaseUnreachable, match="all connections of this process are busy"):
            db.write(lambda connection: None)
        with pytest.raises(DatabaseUnreachable, match="busy"), db.read():
            pass
    db.write(lambda connection: None)
    db.close()


# --- the connection breaks


def test_a_connection_killed_before_commit_is_replaced_once(backend: Backend, db: Database) -> None:
    need_server(backend)
    sessions: list[int] = []

    def work(connection: Transaction) -> None:
        sessions.append(session_of(connection))
        insert(connection, 1)
        connection.send()
        if len(sessions) == 1:
            kill(backend, sessions[0])
        insert(connection, 2)

    db.write(work)
    assert len(set(sessions)) == 2
    assert notes(db) == [1, 2]


def test_a_connection_that_is_killed_again_and_again_is_unreachable(backend: Backend, db: Database) -> None:
    need_server(backend)
    sessions: list[int] = []

    def work(connection: Transaction) -> None:
        sessions.append(session_of(connection))
        insert(connection, 1)
        connection.send()
        kill(backend, sessions[-1])
        insert(connection, 2)

    with pytest.raises(DatabaseUnreachable) as caught:
        db.write(work)
    assert caught.value.maybe_committed is False
    assert len(sessions) == 2
    assert notes(db) == []


def test_a_connection_that_died_in_the_pool_is_noticed_before_a_read(
    backend: Backend, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_server(backend)
    monkeypatch.setattr(db_module, "PING_AFTER_SECONDS", 0)
    for _ in range(2):
        with db.read() as connection:
            session = session_of(connection)
        kill(backend, session)
    assert notes(db) == []


def test_a_read_over_a_connection_that_broke_is_unreachable(backend: Backend, db: Database) -> None:
    need_server(backend)

    def look() -> None:
        with db.read() as connection:
            kill(backend, session_of(connection))
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnreachable):
        look()
    assert notes(db) == []


def test_a_kept_connection_that_broke_raises_what_its_caller_can_judge(backend: Backend, db: Database) -> None:
    need_server(backend)
    kept = db.connect()
    kill(backend, session_of(Reader(kept, db.dialect)))
    with pytest.raises(sa.exc.DBAPIError) as caught:
        kept.exec_driver_sql("SELECT 1")
    assert db.is_away(caught.value)
    kept.invalidate()
    kept.close()


@pytest.mark.parametrize("delivered", [True, False], ids=["committed", "not committed"])
def test_a_lost_reply_to_commit_is_told_and_not_repeated(
    backend: Backend, db: Database, open_database: OpenDatabase, delivered: bool
) -> None:
    need_server(backend)
    assert backend.server is not None
    attempts = []

    def work(connection: Transaction) -> None:
        attempts.append(1)
        insert(connection, 1)

    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        far = open_database(backend.url_at(proxy.port))
        cut = proxy.cut_after_request(backend.commit_request, deliver=delivered)
        with pytest.raises(DatabaseUnreachable) as caught:
            far.write(work)
        assert cut.happened.wait(10)
        far.close()
    assert caught.value.maybe_committed is True
    assert len(attempts) == 1
    assert notes(db) == ([1] if delivered else [])


def test_a_lost_reply_within_the_work_is_repeated(backend: Backend, db: Database, open_database: OpenDatabase) -> None:
    need_server(backend)
    assert backend.server is not None
    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        far = open_database(backend.url_at(proxy.port))
        proxy.cut_after_request(b"INSERT")
        far.write(lambda connection: insert(connection, 1))
        far.close()
    assert notes(db) == [1]


def test_a_server_that_never_answers_is_given_up(
    backend: Backend, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_server(backend)
    assert backend.server is not None
    monkeypatch.setattr(database_url, "ANSWER_SECONDS", 1)
    with TcpProxy("127.0.0.1", backend.server.port) as proxy:
        far = open_database(backend.url_at(proxy.port) + "?connect_timeout=2")
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            far.write(lambda connection: connection.execute(sa.text("SELECT 1")))
        assert time.monotonic() - began < 15
        proxy.cut()
        proxy.accept()
        assert far.write(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one()) == 1
        far.close()


def test_a_server_that_became_read_only_is_left_for_its_successor(db: Database) -> None:
    """After a failover the old connections still stand, and every one of them refuses to write."""
    if db.family != "postgresql":
        pytest.skip("only PostgreSQL's sessions can be made read-only one by one, for an administrator too")
    for _ in range(3):
        with db.plain.connect() as connection:
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()
    db.write(lambda connection: insert(connection, 1))
    assert notes(db) == [1]


# --- who may listen in


@pytest.mark.slow
def test_tls_is_verified_and_a_wrong_password_told(
    start_private_server: Callable[..., Any], backend: Backend, tmp_path: Path, open_database: OpenDatabase
) -> None:
    from tests.certificates import make_certificate

    need_server(backend)
    assert backend.server is not None
    mine, foreign = make_certificate(tmp_path / "mine"), make_certificate(tmp_path / "foreign")
    server = start_private_server(backend.server.flavour)
    server.create_database("one")
    mysql = server.flavour is MARIADB
    if mysql:
        plain = server.url("one").replace("root@", f"alice:{SECRET}@")
        run(server, f"CREATE USER alice@'%' IDENTIFIED BY '{SECRET}'", "GRANT ALL ON one.* TO alice@'%'")
        with pytest.raises(DatabaseUnreachable, match=r"(?i)ssl|tls"):
            Database(f"{plain}?ssl_mode=REQUIRED").open()  # the server has no TLS yet: never fall back to plain text
        server.stop()
        server.extra_arguments = [
            f"--ssl-cert={server.give(mine.certificate)}",
            f"--ssl-key={server.give(mine.key)}",
        ]
        server.start()
        right, wrong_authority = f"ssl_ca={mine.authority}", f"ssl_ca={foreign.authority}"
        chain_only = f"{right}&ssl_mode=VERIFY_CA"
        cipher = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'ssl_cipher'"
    else:
        plain = server.url("one").replace("postgres@", f"alice:{SECRET}@")
        run(server, f"CREATE ROLE alice SUPERUSER LOGIN PASSWORD '{SECRET}'")
        server.stop()
        (server.datadir / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        server.extra_arguments = [
            "--ssl=on",
            f"--ssl_cert_file={server.give(mine.certificate)}",
            f"--ssl_key_file={server.give(mine.key)}",
        ]
        server.start()
        right, wrong_authority = f"sslrootcert={mine.authority}", f"sslrootcert={foreign.authority}"
        chain_only = f"{right}&sslmode=verify-ca"
        cipher = "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    named = plain.replace("127.0.0.1", "localhost")  # the certificate's name

    for url in (f"{named}?{right}", f"{plain}?{chain_only}"):
        with open_database(url).read() as connection:
            assert connection.exec_driver_sql(cipher).scalar_one()
    for url in (f"{named}?{wrong_authority}", f"{plain}?{right}"):
        with pytest.raises(DatabaseUnreachable, match=r"(?i)certificate") as caught:
            Database(url).open()
        assert SECRET not in f"{caught.value} {caught.value!r}"

    wrong = plain.replace(SECRET, "wrong-" + SECRET)
    with pytest.raises(DatabaseUnreachable, match="check address, user, password and network") as caught:
        Database(wrong).open()
    assert SECRET not in f"{caught.value} {caught.value!r}"


def run(server: Any, *statements: str) -> None:
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_no_file_of_a_database_is_left_open(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/a.db").open()
    db.close()
    with contextlib.suppress(FileNotFoundError):  # only Linux lists them
        assert not any(str(tmp_path) in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
