"""A node's connection to a Dask scheduler: made, checked, watched, and made again.

All of it runs in the engine's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from crawlfleet.core.errors import ClusterUnreachable, UsageError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # how long a starting node tries to reach the scheduler
LOOK_SECONDS = 0.5  # between two looks at the connection
CLOSE_SECONDS = 10.0


class ClusterConnection:
    """`client` is None while the scheduler is away, and `is_up` is set while it is not.

    `on_event` hears the events of workers, `on_scheduler_lost` that the scheduler is gone, `on_workers_lost` which of
    the `workers_in_use` are gone.
    """

    def __init__(
        self,
        scheduler: str,
        modules: Sequence[str],
        on_event: Callable[[tuple[float, Any]], None],
        on_scheduler_lost: Callable[[], None],
        on_workers_lost: Callable[[frozenset[str]], None],
        workers_in_use: Callable[[], frozenset[str]],
    ) -> None:
        self.scheduler = scheduler
        self.client: Client | None = None
        self.is_up = asyncio.Event()
        self._modules = tuple(modules)
        self._on_event = on_event
        self._on_scheduler_lost = on_scheduler_lost
        self._on_workers_lost = on_workers_lost
        self._workers_in_use = workers_in_use
        self._socket: object = None
        self._tries = 0

    async def connect(self) -> None:
        """Raises ClusterUnreachable, UsageError."""
        import dask.config
        from distributed import Client

        # A client keeps its last messages for a debugger, and tokens are among them.
        with dask.config.set({"distributed.admin.low-level-log-length": 0}):
            client = Client(
                self.scheduler, asynchronous=True, timeout=CONNECT_SECONDS, set_as_default=False, name="crawlfleet"
            )
            try:
                await client
            except (OSError, ImportError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ClusterUnreachable(f"Dask scheduler {self.scheduler} cannot be reached: {reason}") from None
            except (ValueError, TypeError, RuntimeError) as error:  # a kind of address, certificates that are missing
                await _close(client)
                raise UsageError(f"dask_scheduler {self.scheduler} cannot be used: {error}") from None
        try:
            await self._check(client)
        except BaseException:
            await _close(client)
            raise
        client.subscribe_topic(client.id, self._on_event)
        self.client = client
        self._socket = client.scheduler_comm
        self.is_up.set()

    async def _check(self, client: Client) -> None:
        """Raises UsageError when a side of the cluster does not fit."""
        from crawlfleet.engines.dask.worker import describe

        own = describe().versions
        try:
            sides = {"scheduler": await client.run_on_scheduler(describe)}
            workers = await client.run(describe, self._modules, on_error="return")
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"Dask scheduler {self.scheduler} lacks crawlfleet {own['crawlfleet']} ({error}): install the same "
                f"version on the scheduler and all workers"
            ) from None
        sides |= {f"worker {address}": each for address, each in workers.items()}
        for name, side in sides.items():
            problem = str(side) if isinstance(side, Exception) else side.problem
            if problem is not None:
                raise UsageError(f"Dask {name} cannot run tasks of this node: {problem}")
            for package, version in own.items():
                if side.versions[package] != version:
                    raise UsageError(
                        f"Dask {name} has {package} {side.versions[package]}, this node has {version}: "
                        f"install the same version on all sides"
                    )

    async def watch(self) -> None:
        """See that the scheduler or a worker was lost, and connect again; for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            client = self.client
            if client is None:
                await self._reconnect()
            elif client.status != "running" or client.scheduler_comm is not self._socket:
                log.warning("Dask scheduler away, waiting for it: scheduler=%s", self.scheduler)
                self.client = None
                self.is_up.clear()
                self._on_scheduler_lost()
                await _close(client)
            elif workers := self._workers_in_use():
                await self._look_for(workers, client)

    async def _reconnect(self) -> None:
        try:
            await self.connect()
        except (ClusterUnreachable, UsageError) as error:
            self._tries += 1
            if self._tries == 1 or isinstance(error, UsageError):
                log.warning("%s; trying again", error)
        else:
            self._tries = 0
            log.info("Dask scheduler back: scheduler=%s", self.scheduler)

    async def _look_for(self, workers: frozenset[str], client: Client) -> None:
        try:
            alive = await client.nthreads()
        except Exception as error:  # whatever it is, a broken connection is seen by `watch`
            log.debug("Dask scheduler did not tell its workers: %s", error)
            return
        self._on_workers_lost(workers - frozenset(alive))

    async def run_on(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns on the worker; None when that cannot be reached, which `watch` sees, too."""
        client = self.client
        if client is None:
            return None
        try:
            found = await client.run(function, *arguments, workers=[worker])
        except Exception as error:
            log.debug("Dask worker not reached: worker=%s reason=%s", worker, error)
            return None
        return found.get(worker)

    async def close(self) -> None:
        """Give the connection up."""
        if self.client is not None:
            await _close(self.client)


async def _close(client: Client) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(client.close(), CLOSE_SECONDS)
