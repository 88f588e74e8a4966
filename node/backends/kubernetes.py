"""Tasks as Jobs of the cluster that this node stands in: one Job per attempt, its record in the Job's annotations.

Nothing here must outlive the node: what the cluster holds is mirrored in memory by three watches, and what is kept is
kept by one request that changes record and run together, on the condition that nobody else has changed them. While a
task has no Job, because its images are still being counted or because it failed before, its record lies in a ConfigMap.
"""

import asyncio
import contextlib
import json
import logging
import shutil
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common.errands import Errands
from common.nodeodm.routes import now_ms
from common.patience import comes
from common.references import TASK_OUTPUT, Reference
from common.storage import ObjectMissing, Storage, StorageFault, StorageUnreachable
from common.tasks import ENDED, State, Task
from node import manifests
from node.backends import BackendRefused, Heard, RecordOutdated, RunRefused
from node.cluster.api import (
    Cluster,
    ClusterAway,
    ClusterFault,
    Object,
    ObjectConflict,
    ObjectGone,
    ObjectRefused,
    QuotaReached,
    WatchExpired,
)
from node.cluster.leadership import Leadership
from node.cluster.mirror import BACK_OFF_S, Mirror
from node.cluster.spool import Spool
from node.console import Console
from node.engines import EngineInUse
from node.families import FamilyTokens
from node.lifecycle import is_ready
from node.manifests import ANNEX, ENGINE, FETCH, PUBLISH, VERSION, Site, job_name
from node.records import Record
from node.runs import RUN_ENDED, Phase, RunStatus
from node.settings import JobSettings
from node.sizing import too_large
from node.verdicts import Patience, Seen, current_pod, has_ended, has_started, judged

logger = logging.getLogger(__name__)

GONE_WITHIN_S = 25.0
"""How long a stopped run's pods are waited for: a client waits for the answer."""
DRAIN_WITHIN_MS = 30_000
"""How long the end of a run is held back for the end of its console."""
NO_POD_ASK_S = 5.0
CONSOLES_OPEN = 200
_AT_ONCE = 1_000
PodOfRun = tuple[str, int, str]
"""Task, attempt, and the uid of one of the attempt's pods."""
_JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")


class KubernetesBackend:
    """One node's Jobs. Every replica mirrors and follows; the leading one starts, ends and keeps."""

    look_every_s = 1.0

    def __init__(
        self,
        cluster: Cluster,
        engine: EngineInUse,
        settings: JobSettings,
        site: Site,
        storage: Storage,
        folder: Path,
        pod_token: Callable[[str, int], str] | None = None,
        families: FamilyTokens | None = None,
    ) -> None:
        """`folder`: for consoles; `pod_token`: what opens one attempt's credentials, where they are minted;
        `families`: what opens the router to the parts of split tasks."""
        self._families = families or FamilyTokens()
        self._cluster = cluster
        self._engine = engine
        self._settings = settings
        self._site = site
        self._storage = storage
        self._folder = folder
        self._pod_token = pod_token
        chosen = manifests.selector(site)
        self._jobs = Mirror(cluster, "jobs", chosen, lambda name, found: self._on_holder("jobs", name, found))
        self._maps = Mirror(
            cluster, "configmaps", chosen, lambda name, found: self._on_holder("configmaps", name, found)
        )
        self._pods = Mirror(cluster, "pods", chosen, self._on_pod)
        self._leadership = Leadership(cluster, manifests.lease_name(site), self._led, settings.lease_s)
        self._held: defaultdict[str, dict[tuple[str, str], Record]] = defaultdict(dict)
        self._uuids: dict[tuple[str, str], str] = {}
        self._leaving: set[str] = set()
        self._annexes: dict[str, Object] = {}
        """What was read or written of annexes, by where they lie."""
        self._unread: dict[str, StorageFault | ValueError] = {}
        """Annexes that could not be read, and why."""
        self._pods_of: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self._spools: dict[tuple[str, int], Spool] = {}
        self._consoles: OrderedDict[tuple[str, int], Console] = OrderedDict()
        self._following: dict[PodOfRun, asyncio.Task[None]] = {}
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._streaming: set[PodOfRun] = set()
        self._ended_seen: dict[str, tuple[int, RunStatus]] = {}
        """Ends that were seen, and when: what follows, another pod say, does not undo them."""
        self._quota: dict[str, str] = {}
        self._errands = Errands(logger, (ClusterFault, StorageFault))
        self._job_of_pod: dict[str, str] = {}
        self._last_pod: dict[str, Object] = {}
        """Of each Job the pod that went last: a deleted one is gone before its Job fails of it."""
        self._news = asyncio.Event()
        self._heard: Heard = lambda _uuid, _record: None
        self._wake: Callable[[], None] = lambda: None

    @property
    def is_leading(self) -> bool:
        """Whether this replica holds the Lease."""
        return self._leadership.is_leading

    def refusal(self, task: Task) -> str | None:
        """Images that are not allowed, options too long, tasks larger than the largest machine."""
        reason = manifests.refusal(task, self._settings)
        return reason or (too_large(task, self._settings.rules) if task.input_bytes else None)

    # Records

    async def records(self, heard: Heard, wake: Callable[[], None]) -> list[Record]:
        """What the cluster holds of this node's tasks. Waits for an API server that is away."""
        self._wake = wake
        failures = 0
        while True:
            try:
                for mirror in (self._jobs, self._maps, self._pods):
                    await mirror.load()
                break
            except (ClusterAway, WatchExpired) as away:
                wait = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                failures += 1
                logger.warning("%s; again in %.1f s", away, wait)
                await asyncio.sleep(wait)
        for place in {marks[ANNEX] for _, _, marks in self._marks()}:
            await self._errands.settled(f"annex {place}")
        self._heard = heard
        await self._leadership.attempt()
        found = [record for uuid in self._held if (record := self._current(uuid)) is not None]
        return sorted(found, key=lambda record: record.accepted_ms)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Watch Jobs, their pods and records, and take part in who leads."""
        group.create_task(self._jobs.run(), name="watch jobs")
        group.create_task(self._maps.run(), name="watch records")
        group.create_task(self._pods.run(), name="watch pods")
        group.create_task(self._leadership.run(), name="leadership")

    async def check(self) -> str:
        """Ask the API server for the Lease of this node's replicas, once it is there."""
        with contextlib.suppress(ObjectGone):
            await self._cluster.get("leases", manifests.lease_name(self._site))
        return "The Kubernetes API answers."

    async def close(self) -> None:
        """Jobs go on without us; another replica may lead at once."""
        for following in self._following.values():
            following.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        await self._errands.close()
        for spool in self._spools.values():
            spool.close()
        await self._leadership.release()
        await self._cluster.close()

    async def save(self, record: Record) -> None:
        """Keep the record, and with it the run: a Job runs if and only if its record says so."""
        try:
            await self._save(record)
        except ObjectRefused as refused:
            if record.task.state in ENDED:
                raise
            raise _run_refused(refused) from refused
        if record.task.state in (State.COMPLETED, State.FAILED):
            self._retire_spool(record)

    async def _save(self, record: Record) -> None:
        uuid = record.task.uuid
        holder, known = self._best(uuid), self._current(uuid)
        try:
            if holder is None:
                await self._create(record)
            elif self._held[uuid][holder].task.attempt != record.task.attempt:
                if not record.forwarded:
                    self._whole(self._held[uuid][holder])  # the new attempt is made of it
                await self._keep_in_map(record)
            else:
                await self._patch(holder, record)
        except (ObjectConflict, ObjectGone) as conflict:
            current = await self._read_again(uuid, record)
            if current is not None and current.version == record.version and current.task == record.task:
                await self._go_on(record)
                return
            if current is not None and known is not None and current.version == known.version:
                raise ClusterAway(f"task {uuid} cannot be kept though nobody has changed it ({conflict})") from conflict
            raise RecordOutdated(uuid, current) from conflict

    async def _go_on(self, record: Record) -> None:
        """The record was kept by our own request, whose answer was lost, and with it what was to follow."""
        await self._ensure_token(record)
        with contextlib.suppress(ObjectConflict, ObjectGone):  # what cannot be done now is done at its start, or stop
            await self._settle(record)

    async def _create(self, record: Record) -> None:
        if manifests.needs_annex(record):
            await self._write_annex(record.task)
        if is_ready(record.task):
            await self._create_job(record)
        else:
            self._maps.put(await self._cluster.create("configmaps", manifests.record_map(record, self._site)))

    async def _create_job(self, record: Record) -> None:
        record = self._whole(record)
        manifest = manifests.job(record, self._engine.now, self._settings, self._site)
        created = await self._cluster.create("jobs", manifest)
        self._jobs.put(created)
        await self._ensure_token(record)

    async def _ensure_token(self, record: Record) -> None:
        """The Job is there: its Secret follows, at once or as soon as it can."""
        try:
            await self._make_token(record)
        except ClusterAway as away:
            logger.warning("the token of task %s is made later: %s", record.task.uuid, away)
            self._send_patiently(f"token {record.task.uuid}", partial(self._make_token, record))

    async def _make_token(self, record: Record) -> None:
        """The Secret by which the run's pods ask for credentials, and send parts; it goes with its Job."""
        found = self._jobs.objects.get(job_name(record.task.uuid, record.task.attempt))
        if found is None or not manifests.has_secret(record, self._site):
            return
        secrets = {}
        if self._pod_token is not None:
            secrets["token"] = self._pod_token(record.task.uuid, record.task.attempt)
        try:
            netrc = self._families.netrc_of(record)
        except BackendRefused as unknown:
            raise ClusterAway(str(unknown)) from unknown
        if netrc is not None:
            secrets[manifests.NETRC] = netrc
        with contextlib.suppress(ObjectConflict):
            await self._cluster.create("secrets", manifests.token_secret(record, self._site, secrets, found))

    async def _patch(self, holder: tuple[str, str], record: Record) -> None:
        kind, name = holder
        mirror = self._jobs if kind == "jobs" else self._maps
        known = self._held[record.task.uuid][holder]
        changes = manifests.patch(record, known.version, mirror.objects[name], self._settings)
        patched = await self._cluster.patch(kind, name, changes)
        mirror.put(patched)
        await self._settle(record)

    async def _settle(self, record: Record) -> None:
        """What a record that is kept asks for beside itself. Safe to repeat."""
        kind, _ = self._best(record.task.uuid) or ("", "")
        if kind == "configmaps" and is_ready(record.task):
            await self._job_from_map(record)
        elif kind == "jobs":
            await self._retire_job(record)

    async def _retire_job(self, record: Record) -> None:
        name = job_name(record.task.uuid, record.task.attempt)
        found = self._jobs.objects.get(name)
        if found is not None and manifests.must_retire(record, found, self._settings):
            await self._keep_in_map(record)
            await self._delete("jobs", name)

    async def _job_from_map(self, record: Record) -> None:
        """The record moves from its ConfigMap into its Job."""
        try:
            await self._create_job(record)
        except ObjectConflict:
            # Ours, made before a crash; or one that is still going, which must not take the record with it.
            found = await self._cluster.get("jobs", job_name(record.task.uuid, record.task.attempt))
            if (
                found["metadata"].get("deletionTimestamp")
                or int(found["metadata"]["annotations"][VERSION]) < record.version
            ):
                raise
            self._jobs.put(found)
            await self._ensure_token(record)
        name = manifests.record_name(record.task.uuid)
        try:
            await self._delete("configmaps", name)
        except ClusterAway as away:
            # The record is kept all the same; its next version makes this one an outdated one, which is tidied away.
            logger.warning("the ConfigMap %s is deleted later: %s", name, away)

    async def _keep_in_map(self, record: Record) -> None:
        """A record without a Job of its own attempt; an older one in the same place gives way."""
        record = self._completed(record)
        if manifests.needs_annex(record):
            await self._write_annex(record.task)
        wanted = manifests.record_map(record, self._site, str(manifests.annex_of(record.task)) in self._unread)
        try:
            found = await self._cluster.create("configmaps", wanted)
        except ObjectConflict:
            found = await self._cluster.get("configmaps", wanted["metadata"]["name"])
            held = found["metadata"]["annotations"]
            if int(held[VERSION]) > record.version or (
                int(held[VERSION]) == record.version and held != wanted["metadata"]["annotations"]
            ):
                raise
            wanted["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            found = await self._cluster.replace("configmaps", wanted)
        self._maps.put(found)

    async def delete(self, record: Record) -> None:
        """Job, ConfigMap, console: everything of the task but its output."""
        uuid, annexed = record.task.uuid, self._has_annex(record)
        self._leaving.add(uuid)
        try:
            held = self._held.get(uuid, {})
            # The newest last: should we be interrupted, no older one comes back to life.
            for kind, name in sorted(held, key=lambda holder: held[holder].version):
                await self._delete(kind, name)
            await self._delete("jobs", job_name(uuid, record.task.attempt))
            await self._until_pods_gone(record)
            await self._forget_console(record)
            if annexed:
                await self._forget_annex(record)
        finally:
            self._leaving.discard(uuid)

    async def _delete(self, kind: str, name: str, only: Mapping[str, str] | None = None) -> None:
        mirror = self._jobs if kind == "jobs" else self._maps
        known = mirror.objects.get(name)
        await self._cluster.delete(kind, name, only)
        if known is not None:
            mirror.drop(name, known["metadata"].get("uid"))

    async def _read_again(self, uuid: str, record: Record) -> Record | None:
        """What the cluster holds of a task right now, past the mirrors."""
        held = list(self._held.get(uuid, {}))
        names = {
            *held,
            ("configmaps", manifests.record_name(uuid)),
            ("jobs", job_name(uuid, record.task.attempt)),
        }
        for kind, name in names:
            mirror = self._jobs if kind == "jobs" else self._maps
            try:
                mirror.put(await self._cluster.get(kind, name))
            except ObjectGone:
                mirror.drop(name)
        await self._errands.settled(f"annex {manifests.annex_of(record.task)}")
        return self._current(uuid)

    async def _write_annex(self, task: Task) -> None:
        place, document = manifests.annex_of(task), manifests.annex_document(task)
        if self._annexes.get(str(place)) == document:
            return
        await self._storage.run(self._storage.write, place, json.dumps(document).encode(), "application/json")
        self._annexes[str(place)] = document
        self._unread.pop(str(place), None)

    def _whole(self, record: Record) -> Record:
        """The record with what of it lies in an annex.

        Raises `StorageUnreachable` while the annex cannot be read, and `RunRefused` where it never will be.
        """
        place = str(manifests.annex_of(record.task))
        if (fault := self._unread.get(place)) is not None:
            told = f"the task's options cannot be read: {fault}"
            raise StorageUnreachable(told) if _may_pass(fault) else RunRefused(told)
        return self._completed(record)

    def _completed(self, record: Record) -> Record:
        """The record with its annex, which may have been read only after somebody took the record."""
        annex = self._annexes.get(str(manifests.annex_of(record.task)))
        return record if annex is None else manifests.with_annex(record, annex)

    def _current(self, uuid: str) -> Record | None:
        best = self._best(uuid)
        return self._held[uuid][best] if best is not None else None

    def _best(self, uuid: str) -> tuple[str, str] | None:
        """Which object holds the task's record: the newest; of equal ones the Job."""
        held = self._held.get(uuid) or {}
        return max(held, key=lambda holder: (held[holder].version, holder[0] == "jobs"), default=None)

    def _on_holder(self, kind: str, name: str, found: Object | None) -> None:
        """A Job or a ConfigMap came, changed or went."""
        if found is None:
            self._unhold(kind, name)
        elif VERSION in (marks := found["metadata"].get("annotations") or {}):
            uuid = self._uuids.get((kind, name))
            known = self._held[uuid].get((kind, name)) if uuid is not None else None
            if known is None or str(known.version) != marks[VERSION]:
                self._read_record(kind, name, marks)
        self._announce()

    def _read_record(self, kind: str, name: str, marks: dict[str, str]) -> None:
        place = marks.get(ANNEX)
        if place is not None and place not in self._annexes and place not in self._unread:
            # What is read here is told of once the errand has brought the annex, by what the mirror holds then.
            self._errands.send(f"annex {place}", self._read_annex(place))
            return
        try:
            record = manifests.record_from(marks, self._annexes.get(place) if place is not None else None)
        except (ValueError, KeyError, TypeError) as unreadable:
            logger.error("%s %s holds no readable record (%r); it is left alone", kind, name, unreadable)  # noqa: TRY400
            return
        self._hold(kind, name, record)

    async def _read_annex(self, place: str) -> None:
        """Once; one that S3 does not give now is read again later. Until then its task is shown without its options."""
        try:
            self._annexes[place] = json.loads(await self._storage.run(self._storage.read, Reference.parse(place)))
            self._unread.pop(place, None)
        except (StorageFault, ValueError) as fault:
            logger.warning("the annex %s cannot be read, so its task's options are not shown: %s", place, fault)
            if _may_pass(fault) and place not in self._unread:
                self._errands.send(f"annex {place} later", self._read_annex_later(place))
            self._unread[place] = fault
        for kind, name, marks in self._marks():
            if marks[ANNEX] == place:
                self._read_record(kind, name, marks)

    async def _read_annex_later(self, place: str) -> None:
        failures = 0
        while True:
            await asyncio.sleep(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
            failures += 1
            fault = self._unread.get(place)
            if fault is None or not _may_pass(fault):
                return
            await self._read_annex(place)

    def _marks(self) -> list[tuple[str, str, dict[str, str]]]:
        """Kind, name and annotations of everything that may hold a record and refers to an annex."""
        found = [
            (kind, name, each["metadata"].get("annotations") or {})
            for kind, mirror in (("jobs", self._jobs), ("configmaps", self._maps))
            for name, each in mirror.objects.items()
        ]
        return [each for each in found if ANNEX in each[2]]

    def _hold(self, kind: str, name: str, record: Record) -> None:
        uuid = record.task.uuid
        self._uuids[kind, name] = uuid
        self._held[uuid][kind, name] = record
        current = self._current(uuid)
        if current is not None:
            self._heard(uuid, current)
        if len(self._held[uuid]) > 1 and self.is_leading:
            self._send_patiently(f"tidy {uuid}", partial(self._tidy, uuid))
        for pod in list(self._pods_of.get(name, {}).values()):
            self._follow_later(pod)

    def _unhold(self, kind: str, name: str) -> None:
        uuid = self._uuids.pop((kind, name), None)
        if uuid is None:
            return
        last = self._held[uuid].pop((kind, name))
        if self._held[uuid]:
            return
        del self._held[uuid]
        if uuid in self._leaving or last.task.state in ENDED:
            self._annexes.pop(str(manifests.annex_of(last.task)), None)
            self._unread.pop(str(manifests.annex_of(last.task)), None)
            self._heard(uuid, None)
            if uuid not in self._leaving:
                # Its time was over, or another replica has removed it.
                self._errands.send(f"forget {uuid}", self._forget_console(last))
        elif self.is_leading:
            logger.warning("somebody deleted %s %s, whose task has not ended; it is made anew", kind, name)
            self._send_patiently(f"rescue {uuid}", partial(self._rescue, last))

    async def _rescue(self, record: Record) -> None:
        """A task does not go because somebody deleted its Job: it goes when it is removed."""
        if await self._read_again(record.task.uuid, record) is None and record.task.uuid not in self._leaving:
            await self._keep_in_map(record)
            self._wake()

    async def _tidy(self, uuid: str) -> None:
        """An outdated attempt's Job, a ConfigMap whose record has moved into a Job: only the newest holder stays."""
        best = self._best(uuid)
        for kind, name in [holder for holder in self._held.get(uuid, {}) if holder != best]:
            outdated = self._held[uuid].get((kind, name))
            if best is None or outdated is None or outdated.version >= self._held[uuid][best].version:
                continue
            mirror = self._jobs if kind == "jobs" else self._maps
            marks = mirror.objects[name]["metadata"]
            # A ConfigMap may be about to hold a newer record; a Job's number is one attempt's for ever.
            same = ("uid",) if kind == "jobs" else ("uid", "resourceVersion")
            await self._delete(kind, name, {mark: str(marks[mark]) for mark in same})

    def _send_patiently(self, name: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """An errand that nobody would send again: it goes on until the API server has taken it."""
        self._errands.send(name, self._patiently(name, step))

    async def _patiently(self, name: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        failures = 0
        while True:
            try:
                await step()
            except (ClusterAway, ObjectConflict, ObjectGone, QuotaReached) as fault:
                wait = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                failures += 1
                logger.warning("%s: %s; again in %.1f s", name, fault, wait)
                await asyncio.sleep(wait)
            else:
                return

    # Runs

    async def start(self, record: Record) -> None:
        """Make sure that the Job is there and not over: the record has started it already where it was waiting."""
        name = job_name(record.task.uuid, record.task.attempt)
        found = self._jobs.objects.get(name)
        if found is not None and manifests.is_finished(found) and self.status(record) is not None:
            return  # it ran to its end while the answer that its record is kept was on its way
        self._ended_seen.pop(name, None)
        self._last_pod.pop(name, None)
        try:
            if found is not None and manifests.is_finished(found):
                # Its pod was deleted under it: it cannot run again, so another takes its name.
                await self._keep_in_map(record)
                await self._delete("jobs", name)
                await self._until_job_gone(name)
                found = None
            if found is None:
                await self._job_from_map(record)
            elif found["spec"].get("suspend") and not self._settings.kueue_queue:
                resume = [{"op": "add", "path": "/spec/suspend", "value": False}]
                self._jobs.put(await self._cluster.patch("jobs", name, resume))
        except (ObjectConflict, ObjectGone) as changed:
            raise ClusterAway(f"{name} is not as it was expected ({changed}); it is looked at again") from changed
        except ObjectRefused as refused:
            raise _run_refused(refused) from refused

    async def _until_job_gone(self, name: str) -> None:
        try:
            async with asyncio.timeout(GONE_WITHIN_S):
                while await self._cluster.get("jobs", name):
                    await self._some_news(0.5)
        except ObjectGone:
            return
        except TimeoutError:
            raise ClusterAway(f"{name} is still being removed after {GONE_WITHIN_S:.0f} s") from None

    def status(self, record: Record) -> RunStatus | None:
        """Where the run stands, by what the watches told: no request is made for it."""
        name = job_name(record.task.uuid, record.task.attempt)
        found = self._jobs.objects.get(name)
        if found is None:
            return None
        pods = list(self._pods_of.get(name, {}).values())
        if not pods and manifests.is_finished(found) and name in self._last_pod:
            pods = [self._last_pod[name]]
        spool = self._spool(record.task.uuid, record.task.attempt)
        now = now_ms()
        if not pods and self.is_leading and not found["spec"].get("suspend"):
            self._errands.send(f"quota {name}", self._ask_why_no_pod(name))
        seen = Seen(spool.mark.percent, spool.mark.publish_percent, spool.mark.error_lines, self._quota.get(name))
        patience = Patience(self._settings.pull_patience_s, self._settings.kueue_queue is not None)
        first_seen, status = self._ended_seen.get(name, (now, judged(found, pods, seen, patience, now)))
        if status is None:
            return None
        drained = self._is_drained(record, pods, spool)
        self._keep_later(record, pods, spool, failed=drained and status.phase is Phase.FAILED)
        if status.phase not in RUN_ENDED:
            return status
        self._ended_seen[name] = (first_seen, status)
        kept = spool.mark.kept_for != "" if status.phase is Phase.COMPLETED else spool.is_kept_whole
        if (drained and kept) or now - first_seen > DRAIN_WITHIN_MS:
            return status
        return RunStatus(Phase.PUBLISH, status.began_ms, progress=min(status.progress, 99.0))

    def _is_drained(self, record: Record, pods: list[Object], spool: Spool) -> bool:
        """Whether the console is here to its end: nothing is being read, and nothing that has ended is yet to be."""
        run = (record.task.uuid, record.task.attempt)
        if any(key[:2] == run for key in self._streaming):
            return False
        for pod in pods:
            uid = pod["metadata"]["uid"]
            ended = [container for container in (FETCH, ENGINE, PUBLISH) if has_ended(pod, container)]
            behind = any(not spool.has_followed(f"{uid}/{container}") for container in ended)
            if behind and (*run, uid) in self._following:
                return False
        return True

    def _keep_later(self, record: Record, pods: list[Object], spool: Spool, failed: bool) -> None:
        """Bring the console to S3: when the engine has ended, for publish to pack it, and once more after a failure."""
        pod = current_pod(pods)
        uid = str(pod["metadata"]["uid"]) if pod is not None else ""
        engine_done = spool.has_followed(f"{uid}/{ENGINE}") and spool.mark.kept_for != uid
        if self.is_leading and (engine_done or (failed and not spool.is_kept_whole)):
            self._errands.send(f"keep {record.task.uuid}", self._keep(record, spool, uid))

    async def _keep(self, record: Record, spool: Spool, pod: str) -> None:
        spool.flush()
        size = spool.path.stat().st_size
        await self._storage.run(self._storage.upload, spool.path, Reference.parse(record.task.output) / TASK_OUTPUT)
        spool.keep(size, pod)
        if record.task.state in ENDED:
            self._retire_spool(record)
        self._wake()

    async def _ask_why_no_pod(self, name: str) -> None:
        """A quota, or an admission rule: the Job controller says so in an event."""
        await asyncio.sleep(NO_POD_ASK_S)
        if self._pods_of.get(name):
            self._quota.pop(name, None)
            return
        found, _ = await self._cluster.listing("events", fields=f"involvedObject.name={name},reason=FailedCreate")
        if found:
            self._quota[name] = f"Kubernetes cannot make the pod: {str(found[-1].get('message'))[:400]}"
            self._wake()

    async def stop(self, record: Record) -> None:
        """The record has suspended the Job; wait until its pods are gone."""
        try:
            await self._retire_job(record)
        except (ObjectConflict, ObjectGone) as changed:
            raise ClusterAway(f"task {record.task.uuid} changes just now ({changed})") from changed
        await self._until_pods_gone(record)
        spool = self._spools.get((record.task.uuid, record.task.attempt))
        if spool is not None and not spool.is_kept_whole and record.task.state is State.CANCELED:
            self._errands.send(f"keep {record.task.uuid}", self._keep(record, spool, spool.mark.kept_for))

    async def forget_run(self, record: Record) -> None:
        """Delete an attempt's Job; the task goes on in another."""
        name, annexed = job_name(record.task.uuid, record.task.attempt), self._has_annex(record)
        try:
            await self._delete("jobs", name)
        except ClusterAway as away:
            # It does not run, and the task's record lies elsewhere: it is outdated, and tidied away.
            logger.warning("%s is deleted later: %s", name, away)
        await self._until_pods_gone(record)
        await self._forget_console(record)
        if annexed:
            await self._forget_annex(record)

    def _has_annex(self, record: Record) -> bool:
        place = str(manifests.annex_of(record.task))
        return place in self._unread or place in self._annexes or manifests.needs_annex(record)

    async def _forget_annex(self, record: Record) -> None:
        place = manifests.annex_of(record.task)
        await self._storage.run(self._storage.delete, place)
        self._annexes.pop(str(place), None)
        self._unread.pop(str(place), None)

    async def _until_pods_gone(self, record: Record) -> None:
        name = job_name(record.task.uuid, record.task.attempt)
        try:
            async with asyncio.timeout(GONE_WITHIN_S):
                while any(_is_alive(pod) for pod in self._pods_of[name].values()):
                    await self._news.wait()
        except TimeoutError:
            logger.warning("the pods of %s are still there after %.0f s; Kubernetes goes on", name, GONE_WITHIN_S)

    # Consoles

    def console(self, record: Record) -> Console:
        """The run's console, as far as it was followed."""
        key = (record.task.uuid, record.task.attempt)
        spool = self._spools.get(key)
        if spool is not None:
            return spool.console
        if key not in self._consoles:
            self._consoles[key] = Console(self._spool_folder(*key) / "console.log")
            if len(self._consoles) > CONSOLES_OPEN:
                self._consoles.popitem(last=False)
        self._consoles.move_to_end(key)
        return self._consoles[key]

    async def say(self, record: Record, line: str) -> None:
        """Add a line to the console, as far as this replica has followed it."""
        self._spool(record.task.uuid, record.task.attempt).say(line)

    def kept_workspaces(self) -> Mapping[str, int]:
        """None: a pod's workspace goes with it."""
        return {}

    async def drop_workspace(self, uuid: str) -> None:
        """There are none."""

    async def keep_workspace(self, record: Record) -> None:
        """It is gone."""

    async def clean_workspaces(self) -> None:
        """There are none."""

    async def recall(self, record: Record) -> None:
        """A console that this replica has not followed lies in S3 once its run has ended."""
        folder = self._spool_folder(record.task.uuid, record.task.attempt)
        path = folder / "console.log"
        if record.task.state not in ENDED or path.exists():
            return
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        try:
            await self._storage.run(self._storage.download, Reference.parse(record.task.output) / TASK_OUTPUT, path)
        except ObjectMissing:
            await asyncio.to_thread(path.touch)
        except StorageFault as fault:
            logger.warning("the console of task %s cannot be read back: %s", record.task.uuid, fault)

    def _spool_folder(self, uuid: str, attempt: int) -> Path:
        return self._folder / uuid / str(attempt)

    def _spool(self, uuid: str, attempt: int) -> Spool:
        key = (uuid, attempt)
        if key not in self._spools:
            self._spools[key] = Spool(self._spool_folder(uuid, attempt), self._settings.spool_mib * 2**20)
        return self._spools[key]

    def _retire_spool(self, record: Record) -> None:
        """What was followed to its end is read from its file from now on: a thousand ended tasks take no memory."""
        run = (record.task.uuid, record.task.attempt)
        if not any(key[:2] == run for key in self._following):
            spool = self._spools.pop(run, None)
            if spool is not None:
                spool.close()

    async def _forget_console(self, record: Record) -> None:
        uuid, attempt = record.task.uuid, record.task.attempt
        for key in [key for key in self._following if key[:2] == (uuid, attempt)]:
            following = self._following.pop(key)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        spool = self._spools.pop((uuid, attempt), None)
        if spool is not None:
            spool.close()
        self._consoles.pop((uuid, attempt), None)
        self._ended_seen.pop(job_name(uuid, attempt), None)
        self._last_pod.pop(job_name(uuid, attempt), None)
        self._turns.pop((uuid, attempt), None)
        if not self._pods_of.get(job_name(uuid, attempt)):
            self._pods_of.pop(job_name(uuid, attempt), None)
        await asyncio.to_thread(shutil.rmtree, self._spool_folder(uuid, attempt), ignore_errors=True)
        with contextlib.suppress(OSError):
            self._spool_folder(uuid, attempt).parent.rmdir()

    def _on_pod(self, name: str, found: Object | None) -> None:
        job = self._job_of_pod.pop(name, None) if found is None else _job_of(found)
        if found is None:
            gone = self._pods_of.get(job or "", {}).pop(name, None)
            if gone is not None and job is not None:
                self._last_pod[job] = gone
        elif job is not None:
            self._job_of_pod[name] = job
            self._pods_of[job][name] = found
            self._quota.pop(job, None)
            self._follow_later(found)
        self._announce()

    def _follow_later(self, pod: Object) -> None:
        """Follow a pod's containers from the moment that the first of them runs."""
        job = _job_of(pod)
        uuid = self._uuids.get(("jobs", job)) if job is not None else None
        if uuid is None or job is None or not has_started(pod, FETCH):
            return
        record = self._held[uuid]["jobs", job]
        if record.task.state in ENDED:
            return
        attempt = record.task.attempt
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        key = (uuid, attempt, uid)
        sources = [f"{uid}/{container}" for container in (FETCH, ENGINE, PUBLISH)]
        spool = self._spool(uuid, attempt)
        if key in self._following or all(spool.has_followed(source) for source in sources):
            return
        following = asyncio.create_task(self._follow(name, uid, uuid, attempt), name=f"follow {name}")
        self._following[key] = following
        following.add_done_callback(lambda done: self._followed(key, done))

    def _followed(self, key: PodOfRun, done: "asyncio.Task[None]") -> None:
        self._following.pop(key, None)
        uuid, attempt, _ = key
        current = self._current(uuid)
        if current is not None and current.task.attempt == attempt and current.task.state in ENDED:
            spool = self._spools.get((uuid, attempt))
            if spool is not None and spool.is_kept_whole:
                self._retire_spool(current)
        if not done.cancelled() and (trouble := done.exception()) is not None:
            logger.error("following pod %s of task %s failed", key[2], uuid, exc_info=trouble)
        self._wake()

    async def _follow(self, name: str, uid: str, uuid: str, attempt: int) -> None:
        """A pod's containers, one after the other; of two pods of one run the first to its end first."""
        async with self._turns[uuid, attempt]:
            spool = self._spool(uuid, attempt)
            for container in (FETCH, ENGINE, PUBLISH):
                source = f"{uid}/{container}"
                while not spool.has_followed(source):
                    pod = self._pods.objects.get(name)
                    if pod is None or pod["metadata"]["uid"] != uid:
                        spool.close()
                        return
                    if has_started(pod, container):
                        self._streaming.add((uuid, attempt, uid))
                        try:
                            await self._follow_container(name, container, source, spool)
                        finally:
                            self._streaming.discard((uuid, attempt, uid))
                    elif (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
                        break
                    else:
                        await self._some_news()
                self._wake()

    async def _follow_container(self, name: str, container: str, source: str, spool: Spool) -> None:
        """One look at a log, to the end of the stream. It is whole only if the container had ended before."""
        pod = self._pods.objects.get(name)
        had_ended = pod is not None and has_ended(pod, container)
        try:
            async for lines in self._cluster.log(name, container, spool.begin(source)):
                for taken, raw in enumerate(lines):
                    spool.take(container, raw)
                    if taken % _AT_ONCE == _AT_ONCE - 1:
                        # A long log must not keep everybody else waiting.
                        await asyncio.sleep(0)
                spool.flush()
        except ObjectGone:
            had_ended = True
        except ClusterFault as fault:
            logger.info("the log of %s/%s broke off (%s); it is followed again", name, container, fault)
            await self._some_news(1.0)
            return
        if had_ended:
            spool.end(source)
        elif (pod := self._pods.objects.get(name)) is not None and not has_ended(pod, container):
            await self._some_news()

    async def _some_news(self, within_s: float = 2.0) -> None:
        """Until something was told of any object; not for ever, for a stream may break off without any."""
        await comes(self._news, within_s)

    # Small change

    def _announce(self) -> None:
        """Wake whoever waits for news: the event is theirs, the next ones wait for another."""
        self._wake()
        self._news.set()
        self._news = asyncio.Event()

    def _led(self) -> None:
        """What an earlier leader may have left half done."""
        for uuid in list(self._held) if self.is_leading else ():
            record = self._current(uuid)
            if len(self._held[uuid]) > 1:
                self._send_patiently(f"tidy {uuid}", partial(self._tidy, uuid))
            if record is not None and record.task.state is State.RUNNING:
                self._send_patiently(f"token {uuid}", partial(self._make_token, record))
        self._wake()


def _may_pass(fault: StorageFault | ValueError) -> bool:
    return isinstance(fault, StorageFault) and fault.may_pass


def _run_refused(refused: ObjectRefused) -> RunRefused:
    return RunRefused(f"Kubernetes does not take this task's run: {refused.reason}")


def _job_of(pod: Object) -> str | None:
    marks = pod["metadata"].get("labels") or {}
    return next((marks[label] for label in _JOB_LABELS if label in marks), None)


def _is_alive(pod: Object) -> bool:
    """Whether something of a pod may still run: a pod that has ended stays as an object for its log's sake."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
