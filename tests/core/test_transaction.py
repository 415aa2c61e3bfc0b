"""Statements that travel together: order, errors in the middle, savepoints, and how often the server is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from crawlfleet.core import transaction as transaction_module
from crawlfleet.core.db import Database
from crawlfleet.core.errors import DatabaseUnreachable
from crawlfleet.core.sql import json_rows
from crawlfleet.core.transaction import Answer, Transaction
from tests.conftest import Backend
from tests.tcp_proxy import TcpProxy

COUNT = sa.text("SELECT COUNT(*) FROM cl_note")


@pytest.fixture
def far(backend: Backend, db: Database) -> Iterator[tuple[Database, TcpProxy]]:
    """The same database behind a proxy that counts round trips; its connections are open."""
    if backend.server is None:
        pytest.skip("a file is not far away")
    with TcpProxy("127.0.0.1", backend.server.port, delay_seconds=0.02) as proxy:
        made = Database(backend.url_at(proxy.port))
        made.write(lambda transaction: transaction.execute(COUNT).scalar())
        yield made, proxy
        made.close()


def note(transaction: Transaction, number: int, word: str = "") -> Answer:
    return transaction.execute(
        sa.text("INSERT INTO cl_note (id, word) VALUES (:id, :word)"), {"id": number, "word": word}
    )


def notes(db: Database) -> list[int]:
    with db.read() as connection:
        return sorted(connection.execute(sa.text("SELECT id FROM cl_note")).scalars())


def test_answers_belong_to_their_statements_whatever_the_order_they_are_read_in(db: Database) -> None:
    def work(transaction: Transaction) -> tuple[object, ...]:
        before = transaction.execute(COUNT)
        written = note(transaction, 1, "50 % of :x and %(y)s")
        words = transaction.execute(
            sa.text("SELECT id, word FROM cl_note WHERE word LIKE '50 %' AND id = :id"), {"id": 1}
        )
        nothing = transaction.execute(sa.text("SELECT id FROM cl_note WHERE id = 7"))
        after = transaction.execute(COUNT)
        return (
            after.scalar_one(),
            before.scalar_one(),
            written.rowcount,
            dict(words.mappings().one()),
            nothing.first(),
            nothing.all(),
            list(words),
            list(words.scalars()),
        )

    word = "50 % of :x and %(y)s"
    assert db.write(work) == (1, 0, 1, {"id": 1, "word": word}, None, [], [(1, word)], [1])


def test_what_is_asked_before_an_answer_is_read_costs_one_round_trip(far: tuple[Database, TcpProxy]) -> None:
    db, proxy = far

    def work(transaction: Transaction) -> None:
        note(transaction, 1)
        first, second = transaction.execute(COUNT), transaction.execute(COUNT)
        assert (first.scalar(), second.scalar()) == (1, 1)
        note(transaction, 2)
        note(transaction, 3)

    for at_once, trips in ((True, 2), (False, 3)):
        before = proxy.round_trips
        db.write(work, commit_at_once=at_once)
        assert proxy.round_trips - before == trips
        db.write(lambda transaction: transaction.execute(sa.text("DELETE FROM cl_note")))


def test_parameters_that_are_large_together_travel_apart(
    far: tuple[Database, TcpProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    db, proxy = far
    monkeypatch.setattr(transaction_module, "MAX_PACKET_BYTES", 1000)
    before = proxy.round_trips
    db.write(lambda transaction: [note(transaction, n, "x" * 40) for n in range(20)], commit_at_once=True)
    assert 2 <= proxy.round_trips - before <= 4
    assert len(notes(db)) == 20


def test_an_error_in_the_middle_is_raised_and_undoes_everything(db: Database) -> None:
    def work(transaction: Transaction) -> None:
        note(transaction, 1)
        note(transaction, 1)
        note(transaction, 2)

    for at_once in (False, True):
        with pytest.raises(sa.exc.IntegrityError):
            db.write(work, commit_at_once=at_once)
        assert notes(db) == []


def stored(transaction: Transaction, numbers: list[int], error: Exception | None = None, reads: bool = False) -> None:
    with transaction.savepoint():
        answers = [note(transaction, number) for number in numbers]
        if reads:
            assert answers[0].rowcount == 1
        if error is not None:
            raise error


def test_a_savepoint_undoes_its_own_block_only(db: Database) -> None:
    def work(transaction: Transaction) -> None:
        note(transaction, 1)
        with pytest.raises(sa.exc.IntegrityError):
            stored(transaction, [2, 1])
        with pytest.raises(ValueError, match="mine"):
            stored(transaction, [3], ValueError("mine"))
        with pytest.raises(ValueError, match="mine"):
            stored(transaction, [4, 5], ValueError("mine"), reads=True)
        stored(transaction, [6])
        note(transaction, 7)

    db.write(work)
    assert notes(db) == [1, 6, 7]


def test_a_statement_that_changes_too_little_is_told(db: Database) -> None:
    def work(transaction: Transaction) -> None:
        note(transaction, 1)
        statement = db.dialect.update_from("cl_note", {"word": "'x'"}, db.dialect.rows(id="int"), "t.id = v.id")
        transaction.execute(sa.text(statement), {"rows": json_rows([[1], [2]])}).must_change(2)

    with pytest.raises(AssertionError, match="changed 1 rows instead of 2"):
        db.write(work)
    assert notes(db) == []


def test_a_lost_reply_to_the_packet_that_commits_leaves_a_doubt(far: tuple[Database, TcpProxy]) -> None:
    db, proxy = far

    def work(transaction: Transaction) -> None:
        transaction.execute(COUNT).scalar()
        note(transaction, 1)

    cut = proxy.cut_after_request(b"INSERT")
    with pytest.raises(DatabaseUnreachable) as caught:
        db.write(work, commit_at_once=True)
    assert cut.happened.wait(10)
    assert caught.value.maybe_committed is True
    assert notes(db) == [1]
