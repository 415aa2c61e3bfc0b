"""cl_feed: one stream of figures. Its row is the lock of a fetch, and holds what the vendor says of having it.

A vendor that does not let an account have an app or a report says so each time, and each time costs a call of its
quota. So a denial is remembered, and the feed is asked for again rarely: nobody tells us when a grant is given.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from crawlfleet.core.db import Database
from crawlfleet.core.sql import json_rows, stamp, utc
from crawlfleet.core.transaction import Transaction

FIRST_PAUSE = timedelta(days=1)  # after the first denial; it doubles with each one that follows
LONGEST_PAUSE = timedelta(days=30)


class FeedKey(NamedTuple):
    """Whose figures; sorted, they are the order in which a transaction locks several feeds."""

    source: str
    username: str
    app_id: str
    report: str


def lock_feed(db: Database, connection: Transaction, key: FeedKey, now: datetime) -> int:
    """The feed's number, its row locked and made if need be. Its vendor answers: whatever it denied is forgotten."""
    feed_id, denials, _ = _lock(db, connection, key, now)
    if denials:
        connection.execute(
            sa.text("UPDATE cl_feed SET denials = 0, denied_until = NULL, denied_reason = NULL WHERE id = :id"),
            {"id": feed_id},
        )
    return feed_id


def deny(db: Database, connection: Transaction, key: FeedKey, reason: str, now: datetime) -> None:
    """The vendor says that the account may not have the feed: it pauses for a day, twice as long the next time.

    Further denials during a pause (the other tasks of one night) only renew the reason.
    """
    feed_id, denials, denied_until = _lock(db, connection, key, now)
    if denied_until is None or denied_until <= now:
        denials += 1
        denied_until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(denials - 1, 10))
    connection.execute(
        sa.text("UPDATE cl_feed SET denials = :denials, denied_until = :until, denied_reason = :reason WHERE id = :id"),
        {"id": feed_id, "denials": denials, "until": stamp(denied_until), "reason": reason},
    )


def _lock(db: Database, connection: Transaction, key: FeedKey, now: datetime) -> tuple[int, int, datetime | None]:
    find = sa.text(
        "SELECT id, denials, denied_until FROM cl_feed WHERE source = :source AND username = :username"
        " AND app_id = :app_id AND report = :report" + db.wording.for_update
    )
    found = connection.execute(find, key._asdict()).first()
    if found is None:
        insert = db.wording.insert_ignore(
            "INSERT INTO cl_feed (source, username, app_id, report, denials, created_at)"
            " VALUES (:source, :username, :app_id, :report, 0, :now)",
            "source, username, app_id, report",
        )
        connection.execute(sa.text(insert), {**key._asdict(), "now": stamp(now)})
        found = connection.execute(find, key._asdict()).one()
    return int(found[0]), found[1], utc(found[2])


def denied_among(db: Database, connection: Transaction, keys: Collection[FeedKey], now: datetime) -> set[FeedKey]:
    """Which of these feeds are not to be asked for now unless a person wants it."""
    if not keys:
        return set()
    columns = ", ".join(f"t.{name}" for name in FeedKey._fields)
    match = " AND ".join(f"t.{name} = v.{name}" for name in FeedKey._fields)
    statement = sa.text(
        f"SELECT {columns} FROM {db.wording.rows(**dict.fromkeys(FeedKey._fields, 'text'))}"
        f" JOIN cl_feed t ON {match} WHERE t.denied_until > {db.wording.moment('now')}"
    )
    found = connection.execute(statement, {"rows": json_rows(sorted(set(keys))), "now": stamp(now)})
    return {FeedKey(*row) for row in found}


def denied_feeds(db: Database, source: str, username: str) -> list[dict[str, Any]]:
    """What the vendor denied an account last, by app and report: dicts of `app_id`, `report`, `denials`,
    `denied_until` (when it is asked for again) and `denied_reason`."""
    query = sa.text(
        "SELECT app_id, report, denials, denied_until, denied_reason FROM cl_feed"
        " WHERE source = :source AND username = :username AND denials > 0 ORDER BY app_id, report"
    )
    with db.read() as connection:
        found = connection.execute(query, {"source": source, "username": username}).mappings().all()
    return [{**row, "denied_until": utc(row["denied_until"])} for row in found]
