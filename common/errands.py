"""Work that goes on beside everything else: each piece under a name, and only once at a time under it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any


class Errands:
    """Errands under way. One that fails is told in the log: whoever sent it looks again and sends it again."""

    def __init__(self, logger: logging.Logger, passing: tuple[type[Exception], ...] = ()) -> None:
        """`passing`: faults that may pass by themselves, which are worth a line and no traceback."""
        self._logger = logger
        self._passing = passing
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def send(self, name: str, errand: Coroutine[Any, Any, None]) -> None:
        """Run an errand, unless the same one is under way."""
        if name in self._under_way:
            errand.close()
            return
        running = asyncio.get_running_loop().create_task(errand, name=name)
        self._under_way[name] = running
        running.add_done_callback(lambda done: self._returned(name, done))

    async def settled(self, name: str | None = None) -> None:
        """Wait for one errand, or for all that are under way now; how they end is told in the log."""
        waited = [task for each, task in self._under_way.items() if name in (None, each)]
        await asyncio.gather(*waited, return_exceptions=True)

    async def close(self) -> None:
        """End every errand."""
        for errand in self._under_way.values():
            errand.cancel()
        await self.settled()

    def _returned(self, name: str, done: "asyncio.Task[None]") -> None:
        del self._under_way[name]
        if done.cancelled() or (trouble := done.exception()) is None:
            return
        if isinstance(trouble, self._passing):
            self._logger.warning("%s: %s", name, trouble)
        else:
            self._logger.error("errand %s failed: %s", name, trouble, exc_info=trouble)
