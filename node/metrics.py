"""The node's figures for Prometheus, read from those who know them when somebody asks."""

from collections import Counter
from collections.abc import Mapping

from common.metrics import OWN, SAME, Figure, Metrics, Sample, by_state, ends
from common.nodeodm.routes import now_ms
from common.tasks import WAITING
from node.backends import Backend
from node.lifecycle import used_slots
from node.local_tasks import LocalTasks
from node.membership import Membership, capacity_now
from node.settings import NodeSettings

_WAYS = ("router", "upload", "reference", "restart")
FIGURES = (
    Figure(
        "scaleodm_node_tasks",
        "Tasks that are remembered, by state: staging and queued wait, running holds a slot, the others are over. "
        f"{SAME}",
        ("state",),
    ),
    Figure("scaleodm_node_slots", f"Tasks that run at once. {SAME}"),
    Figure(
        "scaleodm_node_slots_used",
        f"Slots taken, by tasks that the router brought and by those that came directly. {SAME}",
        ("by",),
    ),
    Figure(
        "scaleodm_node_oldest_wait_seconds",
        f"How long the task has waited that waits longest; 0 where none does. {SAME}",
    ),
    Figure(
        "scaleodm_node_task_wait_seconds",
        f"How long attempts waited from their coming to the first start of their run. {OWN}",
        is_histogram=True,
    ),
    Figure("scaleodm_node_tasks_accepted_total", f"Attempts taken on, by how they came. {OWN}", ("way",)),
    Figure("scaleodm_node_runs_started_total", f"Runs started, also those that were started once more. {OWN}"),
    Figure("scaleodm_node_runs_ended_total", f"Attempts that ended, by outcome and cause. {OWN}", ("outcome", "cause")),
    Figure(
        "scaleodm_node_run_bytes_total",
        "Bytes that runs have fetched from S3, and brought there, as far as they have told at their end: a Job that "
        f"failed tells nothing. {OWN}",
        ("direction",),
    ),
    Figure(
        "scaleodm_node_heartbeats_total",
        f"Heartbeats sent, by whether the router answered. {OWN}",
        ("result",),
    ),
    Figure(
        "scaleodm_node_router_silence_seconds",
        "How long ago a router has answered; none on a node that has joined no router, or was removed. Of several "
        "replicas of a node each has joined for itself.",
    ),
    Figure(
        "scaleodm_node_leading",
        f"1 on the replica that starts runs and speaks for the node; a node without replicas always leads. {OWN}",
    ),
    Figure(
        "scaleodm_node_kubernetes_requests_total",
        "Requests to the Kubernetes API, repeated ones too, by how they ended: ok, or the fault as the log has it. "
        f"Watches and followed logs are not among them. None where runs are processes. {OWN}",
        ("result",),
    ),
    Figure(
        "scaleodm_node_disk_free_bytes",
        f"Free in the node's folder, in which processes run; in a cluster only consoles lie there. {OWN}",
    ),
    Figure(
        "scaleodm_node_memory_available_bytes",
        f"What programs on this machine may still take; in a cluster that of the largest machine for runs. {SAME}",
    ),
    Figure(
        "scaleodm_node_workspaces_kept",
        f"Workspaces of ended runs of the router's tasks that are kept for a restart. {OWN}",
    ),
)
"""Those of a node alone."""


class NodeMetrics(Metrics):
    """Reads what others count."""

    def __init__(self, requests: Mapping[str, int] | None = None) -> None:
        """`requests`: to the Kubernetes API, by how they ended, where there is one."""
        super().__init__("node", FIGURES)
        if requests is not None:
            self.readings.read_counts("scaleodm_node_kubernetes_requests_total", requests, ("ok", "ClusterAway"))

    def ask(self, settings: NodeSettings, tasks: LocalTasks, backend: Backend, membership: Membership | None) -> None:
        """From now on these are asked."""
        readings, counts = self.readings, tasks.counts
        readings.read("scaleodm_node_tasks", lambda: by_state(Counter(each.task.state for each in tasks.records())))
        readings.read_one("scaleodm_node_slots", lambda: tasks.limits.slots)
        readings.read("scaleodm_node_slots_used", lambda: _slots_used(tasks))
        readings.read_one("scaleodm_node_oldest_wait_seconds", lambda: _oldest_wait_s(tasks))
        readings.read_durations("scaleodm_node_task_wait_seconds", lambda: [((), counts.waits)])
        readings.read_counts("scaleodm_node_tasks_accepted_total", counts.accepted, _WAYS)
        readings.read_one("scaleodm_node_runs_started_total", lambda: counts.started)
        readings.read("scaleodm_node_runs_ended_total", lambda: ends(counts.ended))
        readings.read("scaleodm_node_run_bytes_total", lambda: [(("down",), counts.down), (("up",), counts.up)])
        readings.read_one("scaleodm_node_leading", lambda: tasks.is_leading)
        readings.read_one("scaleodm_node_workspaces_kept", lambda: len(backend.kept_workspaces()))
        readings.read_one("scaleodm_node_disk_free_bytes", lambda: capacity_now(settings, tasks).free_disk_bytes)
        readings.read_one(
            "scaleodm_node_memory_available_bytes", lambda: capacity_now(settings, tasks).available_memory_bytes
        )
        if membership is not None:
            readings.read_counts("scaleodm_node_heartbeats_total", membership.heartbeats, ("answered", "failed"))
            readings.read_one("scaleodm_node_router_silence_seconds", lambda: membership.unheard_s)


def _slots_used(tasks: LocalTasks) -> list[Sample]:
    records = {each.task.uuid: each for each in tasks.records()}
    return [(("router",), used_slots(records, forwarded=True)), (("direct",), used_slots(records, forwarded=False))]


def _oldest_wait_s(tasks: LocalTasks) -> float:
    now = now_ms()
    waits = (now - each.accepted_ms for each in tasks.records() if each.task.state in WAITING)
    return max(0, max(waits, default=0)) / 1000
