"""Which replica runs the loops: the one that holds the lease in Postgres, by Postgres' own clock (design 4.5).

A lease, not an advisory lock: that stays with a replica that hangs, or whose network is gone while its connection is
not. The epoch is the row's key; whoever writes as leader holds on to that key for the time of its transaction, so a new
leader comes after all that the old one has written, and nothing that the old one still tries to write is written.
"""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from router import queries
from router.database import Database
from router.events import ROUTER, Action, Subject, record

logger = logging.getLogger(__name__)

LEASE_S = 6.0
"""How long after its last renewal a leader is one; a dead one is replaced within this and one more renewal."""
RENEW_S = 1.5


class LeadershipLost(Exception):
    """Another replica leads by now."""


class Leadership:
    """Takes the lease when it is free, and renews it."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        """`changed` is told when this replica comes to lead, or ceases to."""
        self._database = database
        self._changed = changed
        self.identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._epoch: int | None = None
        self._held_until = 0.0

    @property
    def is_leading(self) -> bool:
        """Whether this replica may act; what it writes is checked once more."""
        return self._epoch is not None and time.monotonic() < self._held_until

    async def run(self) -> None:
        """Take the lease, renew it, for ever."""
        led = False
        while True:
            try:
                async with asyncio.timeout(LEASE_S):
                    await self.contend()
            except (OSError, SQLAlchemyError, TimeoutError) as trouble:
                logger.warning("who leads cannot be asked (%s)", type(trouble).__name__)
            if led != self.is_leading:
                led = self.is_leading
                logger.info("this replica (%s) %s", self.identity, "leads now" if led else "leads no more")
                self._changed()
            await asyncio.sleep(RENEW_S)

    async def contend(self) -> None:
        """Renew the lease, or take it where it is free."""
        asked_at = time.monotonic()
        async with self._database.transaction() as session:
            if self._epoch is None or not await queries.renew_lease(session, self._epoch, LEASE_S):
                self._epoch = await queries.take_lease(session, self.identity, LEASE_S)
                if self._epoch is not None:
                    me = Subject("router", self.identity, self.identity)
                    record(session, ROUTER, Action.ROUTER_LEADS, me, f"Replica {self.identity} leads now.")
        if self._epoch is not None:
            self._held_until = asked_at + LEASE_S

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A transaction of the leader's. Raises `LeadershipLost` before anything is written."""
        async with self._database.transaction() as session:
            if self._epoch is None or not await queries.hold_epoch(session, self._epoch):
                raise LeadershipLost(f"{self.identity} leads no more")
            yield session

    async def release(self) -> None:
        """Let another replica lead at once."""
        if self._epoch is None:
            return
        epoch, self._epoch = self._epoch, None
        try:
            async with asyncio.timeout(2), self._database.transaction() as session:
                await queries.renew_lease(session, epoch, 0.0)
        except (OSError, SQLAlchemyError, TimeoutError) as trouble:
            logger.warning("the lease could not be given back (%s)", type(trouble).__name__)
