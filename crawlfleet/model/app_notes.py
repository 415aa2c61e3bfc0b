"""What a person should know of the apps that tasks name."""

from __future__ import annotations

from collections.abc import Sequence

from crawlfleet.core.db import Database
from crawlfleet.core.vendor_data import ALL_APPS
from crawlfleet.model.planning_facts import active_apps
from crawlfleet.model.task_spec import TaskSpec
from crawlfleet.settings.values import close_matches

SHOWN_APPS = 20
MOST_ACCOUNTS = 100  # each is a statement


def apps_not_listed(db: Database, specs: Sequence[TaskSpec]) -> list[str]:
    """A note for each app that its account's list, as it was synced last, does not have.

    Looks at no more than 100 accounts. Where no list is known, nothing is noted.
    """
    named: dict[tuple[str, str], set[str]] = {}
    for spec in specs:
        if spec.task_type == "app_data" and spec.source and spec.username and spec.app_id not in (None, ALL_APPS):
            named.setdefault((spec.source, spec.username), set()).add(spec.app_id or "")
    if not named:
        return []
    with db.read() as reader:
        lists = {owner: active_apps(reader, *owner) for owner in sorted(named)[:MOST_ACCOUNTS]}
    missing = [
        (owner, app_id) for owner, apps in lists.items() if apps for app_id in sorted(named[owner].difference(apps))
    ]
    notes = []
    for (source, username), app_id in missing[:SHOWN_APPS]:
        close = close_matches(app_id, lists[source, username])
        meant = f": did you mean {close[0]}?" if close else ""
        notes.append(f"app {app_id} is not in the last list of apps of account {username} at {source}{meant}")
    rest = len(missing) - len(notes)
    return notes + ([f"{rest} more apps are not in the lists of their accounts"] if rest else [])
