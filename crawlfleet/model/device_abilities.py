"""What a device can take, by its row: the types that it knows, its labels, the accounts whose token it lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

SHOWN_DEVICES = 3  # of those that lack a token


def types_of(device: Mapping[str, Any]) -> Collection[str]:
    """The task types that a device, a row of `DeviceDAO.find`, knows."""
    types: Collection[str] = device["capabilities"].get("supported_tasks", ())
    return types


def takes(device: Mapping[str, Any], task_type: str, label: str | None) -> bool:
    """Whether a device, a row of `DeviceDAO.find`, knows the type and has the label, as a claim sees it."""
    labels = device["capabilities"].get("labels", ())
    return task_type in types_of(device) and (label is None or label in labels)


def lacking_of(device: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The accounts, by source and username, whose token a device lacks, and why."""
    reasons = {}
    for lack in device["capabilities"].get("lacking", ()):
        source, username = lack["source"], lack["username"]
        what = f"account {username} at {source}: "  # the key says that
        reasons[source, username] = lack["reason"].removeprefix(what)
    return reasons


def lack_of_token(
    devices: Iterable[Mapping[str, Any]], task_type: str, label: str | None, account: tuple[str | None, str | None]
) -> str | None:
    """Why none of these devices that take such tasks has the token of their account; None when one has, or none takes
    them."""
    workers = [device for device in devices if device["device_type"] != "master" and takes(device, task_type, label)]
    reasons = {worker["device_id"]: lacking_of(worker).get((account[0] or "", account[1] or "")) for worker in workers}
    if not reasons or None in reasons.values():
        return None
    return "; ".join(f"{device_id}: {reason}" for device_id, reason in list(reasons.items())[:SHOWN_DEVICES])
