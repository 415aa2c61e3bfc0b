"""Names that filters may give, read-only: a mistyped one must not look like an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from crawlfleet.core.db import Database
from crawlfleet.core.errors import UsageError
from crawlfleet.core.sql import json_value, sql
from crawlfleet.core.transaction import Reader
from crawlfleet.core.vendor_data import ALL_APPS
from crawlfleet.insights.feeds import FeedFilter
from crawlfleet.settings.values import close_matches
from crawlfleet.sources.registry import source_names

MOST_NAMES = 2000  # among which the one that was meant is looked for
PLACES = {  # tables that know a name; what only tasks name, which is in the last one, is not suggested
    "source": ("cl_account", "cl_feed", "cl_lane"),
    "username": ("cl_account", "cl_feed", "cl_user_app", "cl_crawl_task"),
    "app_id": ("cl_user_app", "cl_feed", "cl_crawl_task"),
}
WHAT = {"source": "vendor", "username": "account", "app_id": "app"}


def require_known(db: Database, wanted: FeedFilter) -> None:
    """Raise UsageError for a source, an account or an app of which nothing is known, with what was probably meant.

    An account must be known at the source that is named with it, and an app of that account.
    """
    given: dict[str, str] = {}
    with db.read() as reader:
        for column, tables in PLACES.items():
            name = getattr(wanted, column)
            if name is None:
                continue
            inside = dict(given)
            given[column] = name
            if not any(_is_in(reader, table, given) for table in tables) and not _is_known_otherwise(
                reader, column, name, inside
            ):
                raise UsageError(_unknown(reader, column, name, inside))


def _is_in(reader: Reader, table: str, given: Mapping[str, str]) -> bool:
    where = " AND ".join(f"{column} = :{column}" for column in given)
    return reader.execute(sql(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1"), given).first() is not None


def _is_known_otherwise(reader: Reader, column: str, name: str, inside: Mapping[str, str]) -> bool:
    if column == "source":
        return name in source_names()
    return column == "app_id" and (name == ALL_APPS or name in _apps_by_hand(reader, inside))


def _apps_by_hand(reader: Reader, inside: Mapping[str, str]) -> set[str]:
    where = "".join(f" AND {column} = :{column}" for column in inside)
    app_lists = reader.execute(sql(f"SELECT app_ids FROM cl_account WHERE 1 = 1{where}"), inside).scalars()
    return {app_id for named in app_lists for app_id in json_value(named) or ()}


def _unknown(reader: Reader, column: str, name: str, inside: Mapping[str, str]) -> str:
    """What to say of a name that is not known where these others are named."""
    where = "".join(f" AND {each} = :{each}" for each in inside)
    names = set(source_names()) if column == "source" else set()
    for table in PLACES[column][:-1]:
        statement = sql(f"SELECT DISTINCT {column} FROM {table} WHERE {column} <> ''{where} LIMIT {MOST_NAMES}")
        names |= set(reader.execute(statement, inside).scalars())
    if column == "app_id":
        names |= _apps_by_hand(reader, inside)
    close = close_matches(name, sorted(names))
    at = f" at {inside['source']}" if "source" in inside else ""
    of = f" of {inside['username']}" if column == "app_id" and "username" in inside else ""
    shows = {"source": "`accounts list`", "username": "`accounts list`", "app_id": "`data apps`"}[column]
    hint = f"did you mean {close[0]!r}?" if close else f"{shows} shows what is known"
    return f"no {WHAT[column]} {name!r:.200}{of}{at} is known: {hint}"


def never_synced(db: Database, wanted: FeedFilter) -> list[tuple[str, str]]:
    """Accounts that are meant, as (source, username), of whose apps nothing is known: nothing was ever fetched."""
    owner = replace(wanted, app_id=None, report=None)
    parameters = {name: value for name in ("source", "username") if (value := getattr(owner, name)) is not None}
    where = "".join(f" AND a.{name} = :{name}" for name in parameters)
    same = "t.source = a.source AND t.username = a.username"
    statement = sql(
        f"SELECT a.source, a.username FROM cl_account a WHERE NOT EXISTS (SELECT 1 FROM cl_feed t WHERE {same})"
        f" AND NOT EXISTS (SELECT 1 FROM cl_user_app t WHERE {same}){where} ORDER BY a.source, a.username"
    )
    with db.read() as reader:
        return [(source, username) for source, username in reader.execute(statement, parameters)]
