"""What the cluster holds of one kind, in memory: one listing, one watch, and a listing again when that breaks off."""

import asyncio
import logging
from collections.abc import Callable

from node.cluster.api import Cluster, ClusterFault, Object, WatchExpired

logger = logging.getLogger(__name__)

BACK_OFF_S = (0.2, 0.5, 1, 2, 5, 10, 20)
"""Waits between attempts to reach the API server; the last one repeats."""
Changed = Callable[[str, Object | None], None]
"""Told of an object that is new or changed, by its name, or that is gone (None)."""


class Mirror:
    """The objects of one kind and one selector, by name."""

    def __init__(self, cluster: Cluster, kind: str, selector: str, changed: Changed) -> None:
        """`changed` is told of everything, the first listing included."""
        self._cluster = cluster
        self._kind = kind
        self._selector = selector
        self._changed = changed
        self._version = ""
        self.objects: dict[str, Object] = {}

    async def load(self) -> None:
        """List, and tell what is different from what was known."""
        found, version = await self._cluster.listing(self._kind, self._selector)
        self._version = version
        names = {each["metadata"]["name"] for each in found}
        for name in [name for name in self.objects if name not in names]:
            self.drop(name)
        for each in found:
            self.put(each)

    async def run(self) -> None:
        """Watch for ever."""
        failures = 0
        while True:
            try:
                async for happened, found in self._cluster.watch(self._kind, self._selector, self._version):
                    failures = 0
                    self._take(happened, found)
            except ClusterFault as fault:
                wait = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                failures += 1
                if not isinstance(fault, WatchExpired):
                    logger.warning("watching %s: %s; again in %.1f s", self._kind, fault, wait)
                await asyncio.sleep(wait)
                await self._list_again()

    async def _list_again(self) -> None:
        """After a fault only a listing tells what was missed."""
        try:
            await self.load()
        except ClusterFault as still:
            logger.warning("listing %s: %s", self._kind, still)

    def put(self, found: Object) -> None:
        """Take an object in, from a watch or from the answer to a request of ours."""
        name = found["metadata"]["name"]
        known = self.objects.get(name)
        if known is not None and not _is_newer(found, known):
            return
        self.objects[name] = _slim(found)
        self._changed(name, self.objects[name])

    def drop(self, name: str, uid: str | None = None) -> None:
        """An object is gone, by a watch or by the answer to a request of ours; `uid`: that one, not one of its name."""
        known = self.objects.get(name)
        if known is not None and uid in (None, known["metadata"].get("uid")):
            del self.objects[name]
            self._changed(name, None)

    def _take(self, happened: str, found: Object) -> None:
        self._version = found["metadata"].get("resourceVersion") or self._version
        if happened == "DELETED":
            self.drop(found["metadata"]["name"], found["metadata"].get("uid"))
        elif happened != "BOOKMARK":
            self.put(found)


def _is_newer(found: Object, known: Object) -> bool:
    """The answer to our own request may be ahead of the watch, which then tells what we know better.

    Versions of one object are numbers that grow (Kubernetes 1.35 says so of all its own kinds); what is no number, or
    belongs to another object of the same name, counts as newer.
    """
    if found["metadata"].get("uid") != known["metadata"].get("uid"):
        return True
    one, other = (str(each["metadata"].get("resourceVersion")) for each in (found, known))
    return int(one) > int(other) if one.isdigit() and other.isdigit() else one != other


def _slim(found: Object) -> Object:
    """Without what takes most of the memory and nobody reads: who managed which field, and a Job's pod template."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    slim = found | {"metadata": metadata}
    if "template" in (found.get("spec") or {}):
        slim["spec"] = {name: value for name, value in found["spec"].items() if name != "template"}
    elif "containers" in (found.get("spec") or {}):
        slim["spec"] = {"nodeName": found["spec"].get("nodeName")}
    return slim
