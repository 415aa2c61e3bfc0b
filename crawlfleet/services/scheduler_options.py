"""What the settings decide for a scheduler and its turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from crawlfleet.model.budget import LimitOf, as_stored
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
    """Limits and intervals; all in seconds."""

    concurrent_tasks: int = 5
    schedule_interval: float = 30
    dispatch_interval: float = 10
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    limit_of: LimitOf = as_stored
    mode: str = "standalone"
    claim_without_master: bool = True
    labels: tuple[str, ...] = ()

    @property
    def adopts(self) -> bool:
        """Whether a master may assign tasks to this device."""
        return self.mode == "worker"
