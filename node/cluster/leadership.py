"""Which replica of a node starts and ends runs: the one that holds the Lease object."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

from node.cluster.api import Cluster, ClusterFault, Object, ObjectConflict, ObjectGone

logger = logging.getLogger(__name__)

RENEWALS = 4
"""How often a Lease is renewed before it would be over."""


class Leadership:
    """Holds the Lease while it can. Clocks are not compared: a Lease is over when it was not renewed under our eyes."""

    def __init__(self, cluster: Cluster, name: str, changed: Callable[[], None], lease_s: float) -> None:
        """`changed` is told whenever this replica comes to lead, or ceases to."""
        self._cluster = cluster
        self._name = name
        self._changed = changed
        self._lease_s = lease_s
        self._renew_every_s = lease_s / RENEWALS
        self.identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._held_until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        """The holder and renewal last seen, and when that was first seen."""

    @property
    def is_leading(self) -> bool:
        """Whether this replica may act now."""
        return time.monotonic() < self._held_until

    async def run(self) -> None:
        """Take the Lease, renew it, for ever."""
        led = False
        while True:
            await self.attempt()
            if led != self.is_leading:
                led = self.is_leading
                logger.info("this replica (%s) %s", self.identity, "leads now" if led else "leads no more")
                self._changed()
            await asyncio.sleep(self._renew_every_s)

    async def attempt(self) -> None:
        """One attempt to take or renew the Lease."""
        asked_at = time.monotonic()
        try:
            if await self._take(asked_at):
                self._held_until = asked_at + self._lease_s
        except ObjectConflict:
            return  # another replica was first
        except ClusterFault as fault:
            logger.warning("the lease %s cannot be renewed: %s", self._name, fault)

    async def release(self) -> None:
        """Let another replica take over at once. Where that fails, it does when the Lease is over."""
        if not self.is_leading:
            return
        self._held_until = 0.0
        try:
            lease = await self._cluster.get("leases", self._name)
            lease["spec"] |= {"holderIdentity": "", "renewTime": _now()}
            await self._cluster.replace("leases", lease)
        except ClusterFault as fault:
            logger.warning("the lease %s could not be given back: %s", self._name, fault)

    async def _take(self, now: float) -> bool:
        try:
            lease = await self._cluster.get("leases", self._name)
        except ObjectGone:
            await self._cluster.create("leases", self._lease({}))
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder and holder != self.identity:
            mark = f"{holder} {spec.get('renewTime')}"
            if mark != self._seen[0]:
                self._seen = (mark, now)
            if now - self._seen[1] < self._lease_s:
                return False
        await self._cluster.replace("leases", self._lease(lease))
        return True

    def _lease(self, known: Object) -> Object:
        spec = known.get("spec") or {}
        is_ours = spec.get("holderIdentity") == self.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": known.get("metadata") or {"name": self._name, "namespace": self._cluster.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self._lease_s)),
                "acquireTime": spec.get("acquireTime") if is_ours else _now(),
                "renewTime": _now(),
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if is_ours else 1),
            },
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
