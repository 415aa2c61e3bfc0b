"""What the settings decide for a scheduler and its turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from crawlfleet.core.account import Account
from crawlfleet.model.budget import LimitOf
from crawlfleet.model.next_move import RetryPolicy
from crawlfleet.model.task_insert import TaskDefaults


class LoadBalanceStrategy(StrEnum):
    """Who gets the next task. A device that claims for itself takes only what it has room for: LEAST_TASKS."""

    ROUND_ROBIN = "round_robin"
    LEAST_TASKS = "least_tasks"
    WEIGHTED = "weighted"
    RANDOM = "random"


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits and intervals, all in seconds, made of the settings by `node.scheduler_options`."""

    concurrent_tasks: int
    schedule_interval: float
    dispatch_interval: float
    heartbeat_interval: float
    retry: RetryPolicy
    defaults: TaskDefaults
    limit_of: LimitOf
    mode: str
    claim_without_master: bool
    labels: tuple[str, ...]
    usable: Callable[[Account], Account]  # an account with this node's keys

    @property
    def adopts(self) -> bool:
        """Whether a master may assign tasks to this device."""
        return self.mode == "worker"
