"""cl_feed: one stream of figures. Its row is the lock of a fetch, and holds what the vendor says of having it.

A vendor that does not let an account have an app or a report says so each time, and each time costs a call of its
quota. So a denial is remembered, and the feed is asked for again rarely: nobody tells us when a grant is given.
Vendors refuse now and then what they gave before, and what stands between may answer for them. So a feed that worked,
or an answer without the vendor's words, is doubted first, and denied only when later answers are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from crawlfleet.core.db import Database
from crawlfleet.core.sql import SqlDialect, json_batches, json_rows, sql, stamp, utc
from crawlfleet.core.transaction import Answer, AnyRow, Transaction
from crawlfleet.core.vendor_data import ALL_APPS

FIRST_PAUSE = timedelta(days=1)  # after the first denial; it doubles with each one that follows
LONGEST_PAUSE = timedelta(days=30)
PERSISTS_AFTER = timedelta(hours=1)  # of a denial in words: longer than a task tries again
PERSISTS_UNSAID_AFTER = timedelta(hours=20)  # of one without: the next night says the same
APP_LIST = "user_apps"  # the report name of the feed that an app list locks


class FeedKey(NamedTuple):
    """Whose figures; sorted, they are the order in which a transaction locks several feeds."""

    source: str
    username: str
    app_id: str
    report: str


class LockedFeed(NamedTuple):
    """The row of a feed, locked by this transaction."""

    id: int
    denials: int
    denied_until: datetime | None
    doubted_since: datetime | None
    fetch_count: int


def app_list_of(source: str, username: str) -> FeedKey:
    """The feed that an account's app list locks."""
    return FeedKey(source, username, "", APP_LIST)


def feeds_of(rows: Iterable[AnyRow]) -> set[FeedKey]:
    """The feeds that these tasks write if they do as their names say: of an app, of all apps at once, of apps."""
    keys = set()
    for row in rows:
        source, username, app_id, report = row["source"], row["username"], row["app_id"], row["report"]
        if source is None or username is None:
            continue
        if report is not None:
            keys.add(FeedKey(source, username, app_id or ALL_APPS, report))
        if app_id is None:
            keys.add(app_list_of(source, username))
    return keys


FetchCounts = Mapping[FeedKey, int]  # how many fetches of each of these feeds were stored when a run was claimed


def ensure_feeds(transaction: Transaction, keys: Collection[FeedKey]) -> Answer[dict[FeedKey, LockedFeed]]:
    """Ask for these feeds with their rows locked; reading the answer makes those that are missing."""
    dialect = transaction.dialect

    def ensure(former: dict[FeedKey, LockedFeed]) -> dict[FeedKey, LockedFeed]:
        feeds = dict(former)
        missing = sorted(set(keys) - set(feeds))
        if missing:
            names, at = ", ".join(FeedKey._fields), dialect.moment("now")
            insert = dialect.insert_ignore(
                f"INSERT INTO cl_feed ({names}, denials, created_at) SELECT {names}, 0, {at} FROM {_keys(dialect)}",
                names,
            )
            transaction.execute(sql(insert), {"rows": json_rows(missing), "now": stamp(transaction.now)})
            feeds |= _ask_locked(transaction, missing).read()
        return feeds

    return _ask_locked(transaction, keys).map(ensure)


def _ask_locked(transaction: Transaction, keys: Collection[FeedKey]) -> Answer[dict[FeedKey, LockedFeed]]:
    if not keys:
        return Answer.of({})
    dialect = transaction.dialect
    columns = ", ".join(f"t.{name}" for name in FeedKey._fields)
    statement = (
        f"SELECT {columns}, t.id, t.denials, t.denied_until, t.doubted_since, t.fetch_count"
        f" FROM {dialect.by_key(_keys(dialect), 'cl_feed', 'uq_feed')}"
        f" ON {_MATCH} ORDER BY {columns}{dialect.for_update_of_t}"
    )
    reply = transaction.execute(sql(statement), {"rows": json_rows(sorted(set(keys)))})
    return reply.map(
        lambda rows: {FeedKey(*row[:4]): LockedFeed(row[4], row[5], utc(row[6]), utc(row[7]), row[8]) for row in rows}
    )


_MATCH = " AND ".join(f"t.{name} = v.{name}" for name in FeedKey._fields)


def _keys(dialect: SqlDialect) -> str:
    return dialect.rows(**dict.fromkeys(FeedKey._fields, "text"))


def ask_fetch_counts(transaction: Transaction, keys: Collection[FeedKey]) -> Answer[FetchCounts]:
    """Ask how many fetches of each of these feeds are stored; nothing is locked, and a feed may not be there yet."""
    if not keys:
        return Answer.of({})
    columns = ", ".join(f"t.{name}" for name in FeedKey._fields)
    feeds = transaction.dialect.by_key(_keys(transaction.dialect), "cl_feed", "uq_feed")
    statement = sql(f"SELECT {columns}, t.fetch_count FROM {feeds} ON {_MATCH}")
    reply = transaction.execute(statement, {"rows": json_rows(sorted(keys))})
    return reply.map(lambda rows: dict.fromkeys(keys, 0) | {FeedKey(*row[:4]): row[4] for row in rows})


def count_fetch(transaction: Transaction, feed: LockedFeed) -> None:
    """One more fetch of the feed is stored."""
    transaction.execute(sql("UPDATE cl_feed SET fetch_count = fetch_count + 1 WHERE id = :id"), {"id": feed.id})


def forget_denials(transaction: Transaction, feed: LockedFeed) -> None:
    """The vendor answers: whatever it denied is over."""
    if feed.denials or feed.doubted_since is not None:
        forgotten = "denials = 0, denied_until = NULL, denied_reason = NULL, doubted_since = NULL"
        transaction.execute(sql(f"UPDATE cl_feed SET {forgotten} WHERE id = :id"), {"id": feed.id})


def deny(transaction: Transaction, key: FeedKey, reason: str, in_words: bool = True) -> bool:
    """The vendor says that the account may not have the feed: it pauses for a day, twice as long the next time.

    False when that is not believed yet, and to be tried again: the feed brought figures before, or the vendor did not
    say so in words, and there was no such answer so long ago with none of another kind since.
    Further denials during a pause (the other tasks of one night) only renew the reason.
    """
    now = transaction.now
    feed_id, denials, denied_until, doubted_since, _ = ensure_feeds(transaction, [key]).read()[key]
    if not in_words or _has_worked(transaction, feed_id):
        if doubted_since is None:
            doubt = sql("UPDATE cl_feed SET doubted_since = :now WHERE id = :id")
            transaction.execute(doubt, {"id": feed_id, "now": stamp(now)})
            return False
        if now - doubted_since < (PERSISTS_AFTER if in_words else PERSISTS_UNSAID_AFTER):
            return False
    if denied_until is None or denied_until <= now:
        denials += 1
        denied_until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(denials - 1, 10))
    transaction.execute(
        sql("UPDATE cl_feed SET denials = :denials, denied_until = :until, denied_reason = :reason WHERE id = :id"),
        {"id": feed_id, "denials": denials, "until": stamp(denied_until), "reason": reason},
    )
    return True


def _has_worked(transaction: Transaction, feed_id: int) -> bool:
    """Whether figures of it were ever stored."""
    rows = transaction.execute(sql("SELECT 1 FROM cl_coverage WHERE feed_id = :id LIMIT 1"), {"id": feed_id})
    return rows.first() is not None


def denied_among(transaction: Transaction, keys: Collection[FeedKey]) -> set[FeedKey]:
    """Which of these feeds are not to be asked for now unless a person wants it."""
    if not keys:
        return set()
    columns = ", ".join(f"t.{name}" for name in FeedKey._fields)
    statement = sql(
        f"SELECT {columns} FROM {_keys(transaction.dialect)} JOIN cl_feed t ON {_MATCH}"
        f" WHERE t.denied_until > {transaction.dialect.moment('now')}"
    )
    now = stamp(transaction.now)
    asked = [
        transaction.execute(statement, {"rows": rows, "now": now})
        for rows in json_batches(sorted(set(keys)), transaction.dialect.batch_bytes)
    ]
    return {FeedKey(*row) for reply in asked for row in reply}


def denied_feeds(db: Database, source: str, username: str) -> list[dict[str, Any]]:
    """What the vendor denied an account last, by app and report: dicts of `app_id`, `report`, `denials`,
    `denied_until` (when it is asked for again) and `denied_reason`."""
    query = sql(
        "SELECT app_id, report, denials, denied_until, denied_reason FROM cl_feed"
        " WHERE source = :source AND username = :username AND denials > 0 ORDER BY app_id, report"
    )
    with db.read() as reader:
        rows = reader.execute(query, {"source": source, "username": username}).mappings().all()
    return [{**row, "denied_until": utc(row["denied_until"])} for row in rows]
