"""How much of the queue a node takes into its memory: bounded by bytes, not by number alone."""

from __future__ import annotations

import pytest

from crawlfleet.services import run_keeper
from tests.conftest import Backend
from tests.fleets import task
from tests.services.conftest import MakePump

COUNT, SIZE = 12, 100_000


def test_tasks_that_carry_much_are_claimed_few_at_a_time(
    backend: Backend, make_pump: MakePump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim took two thousand tasks of 250 KB each, and the node grew to 1 GB."""
    monkeypatch.setattr(run_keeper, "MAX_HELD_BYTES", 3 * SIZE + 1000)
    pump = make_pump(backend.url, slots=COUNT)
    small = pump.add("weigh", 2, task_data={"text": "x"})
    large = pump.add("weigh", COUNT, task_data={"text": "x" * SIZE})
    claimed = []
    while sum(claimed) < COUNT + 2:
        turn = pump.turn()
        claimed += [len(turn.claimed)] if turn is not None and turn.claimed else []
        pump.wait_ended()
    assert max(claimed) == 5  # two small ones among the first
    assert len(claimed) >= COUNT // 3
    pump.until_status("completed", *small, *large)
    assert {str(task(pump.db, each)["task_ret"]) for each in large} == {str({"size": SIZE})}
    assert pump.scheduler.runs.table.held_bytes == 0
