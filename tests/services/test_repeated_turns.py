"""The database layer may repeat a turn: it does then what it does once, and changes nothing but the database."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from crawlfleet.core.transaction import Transaction
from crawlfleet.services.turn import TurnInput, TurnResult
from tests.conftest import Backend
from tests.services.conftest import MakePump
from tests.services.pump import Pump


class Undone(Exception):
    """Raised in a transaction so that nothing of it stays."""


def repeat_turns(pump: Pump, monkeypatch: pytest.MonkeyPatch, times: int = 3) -> list[TurnResult]:
    """Each transaction of the pump is tried so often, and all tries but the last are undone; the undone results."""
    write, undone = pump.db.write, []

    def repeated(work: Callable[[Transaction], Any], **options: Any) -> Any:
        def attempt(transaction: Transaction) -> None:
            result = work(transaction)
            if isinstance(result, TurnResult):
                undone.append(result)
            raise Undone

        for _ in range(times - 1):
            with pytest.raises(Undone):
                write(attempt)
        return write(work, **options)

    monkeypatch.setattr(pump.db, "write", repeated)
    return undone


def test_a_turn_that_is_repeated_ends_records_and_claims_once(
    backend: Backend, make_pump: MakePump, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = make_pump(backend.url, slots=3)
    [runs_on] = pump.add("held", task_data={"gate": str(gate)})
    [ends] = pump.add("quick")
    [fails] = pump.add("raising", task_data={"kind": "transient"})
    pump.turn()
    pump.wait_began(3)
    pump.wait_ended(2)
    later = pump.add("quick", 2)
    undone = repeat_turns(pump, monkeypatch)
    turn = pump.turn()
    assert turn is not None
    for attempt in undone[:2]:
        assert [each.move for each in attempt.ended] == [each.move for each in turn.ended]
        assert [each.task.id for each in attempt.claimed] == [each.task.id for each in turn.claimed] == later
        assert not {each.assignment_id for each in attempt.claimed} & {each.assignment_id for each in turn.claimed}
    assert dict(pump.scheduler.stats.counters) == {"finish": 1, "retry": 1, "errors": 1}
    assert pump.status(runs_on) == "running"
    assert pump.run_states(ends) == ["completed"]
    assert pump.run_states(fails) == ["failed"]
    gate.touch()
    pump.until_status("completed", runs_on, *later)
    assert [pump.run_states(each) for each in (runs_on, *later)] == [["completed"]] * 3


def test_a_turn_leaves_its_input_alone(url: str, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = make_pump(url)
    pump.add("quick")
    pump.turn()
    pump.wait_ended()
    pump.add("quick")
    turns, seen = pump.scheduler._turns, []
    take = turns.take

    def note(given: TurnInput) -> TurnResult:
        before = [copy(each) for each in given.writes.endings], set(given.held)
        result = take(given)
        assert (list(given.writes.endings), set(given.held)) == before
        seen.append(given)
        return result

    monkeypatch.setattr(turns, "take", note)
    pump.turn()
    [given] = seen
    assert len(given.writes.endings) == 1
    for field in fields(TurnInput):
        with pytest.raises(FrozenInstanceError):
            setattr(given, field.name, None)
