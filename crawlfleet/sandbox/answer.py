"""What a simulated vendor answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; it is counted under `endpoint` and `account`, and noted with the `call` that it answers: account,
    endpoint, app id, first and last day, as far as it has them. `mood` is what kept the vendor from its usual answer.

    `fault` breaks it on its way: "cut" closes the connection in the middle of the body, "stall" falls silent there.
    `when_sent` is called once its whole body was sent.
    """

    status: int
    body: str
    content_type: str = "application/json"
    retry_after: float | None = None
    endpoint: str = ""
    account: str = ""
    call: tuple[str, ...] = ()
    mood: str = ""
    fault: str | None = None
    location: str | None = None  # where a redirect leads
    when_sent: Callable[[], None] | None = None
