"""What a node finds when it examines its settings, its disk, its engine and its cluster: `python -m node.checks`."""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psutil

from common.checks import Check, note, ok, problem, written
from common.settings import SettingsUnusable, TailscaleSettings, read_settings
from common.tailscaled import tailnet_check
from node.backends import BackendAway, BackendRefused
from node.cluster.api import Cluster, ClusterFault, ClusterUnknown
from node.settings import JobSettings, NodeSettings

_GIB = 2**30
SCARCE_GIB = 5
"""A run of a hundred images needs about as much."""
SPARSE_GIB = 50
_CLUSTER_S = 20.0


def settings_check() -> tuple[NodeSettings | None, JobSettings | None, Check]:
    """Whether a node would start with them."""
    try:
        settings = read_settings(NodeSettings)
        jobs = read_settings(JobSettings) if settings.backend == "kubernetes" else None
    except SettingsUnusable as unusable:
        told = "; ".join(line.strip() for line in str(unusable).splitlines()[1:]) or str(unusable)
        return None, None, problem("node settings", told, "docs/settings.md tells of each one.")
    return settings, jobs, ok("node settings", f"readable; node {settings.name}, {settings.slots} slots")


def disk_check(folder: Path) -> Check:
    """Whether tasks find room in the node's folder."""
    name = "node disk"
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        return problem(name, f"{existing} is no folder", "Point SCALEODM_NODE_DATA at one.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as refused:
        return problem(name, f"{existing} cannot be written: {refused.strerror}", "Give it to the node's user.")
    free = psutil.disk_usage(str(existing)).free / _GIB
    if free < SCARCE_GIB:
        return problem(name, f"{free:.1f} GiB free in {existing}", "Free some, or point SCALEODM_NODE_DATA elsewhere.")
    told = f"{free:.0f} GiB free in {existing}"
    return note(name, f"{told}: enough for small surveys only") if free < SPARSE_GIB else ok(name, told)


def engine_check(settings: NodeSettings) -> Check:
    """Whether the engine is there, where it runs on this machine."""
    if (settings.engine or "orthomosaic") == "orthomosaic":
        if find_spec("orthomosaic") is None:
            return problem(
                "engine",
                "pyorthomosaic is not installed",
                "Install scaleodm[engine], or set SCALEODM_NODE_ENGINE=odm.",
            )
        return ok("engine", "pyorthomosaic is installed")
    command = settings.engine_command
    if command is None:
        return problem("engine", "SCALEODM_NODE_ENGINE_COMMAND is not set", "Say what runs ODM, such as /code/run.sh.")
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        return problem("engine", f"{program} is not there, or cannot be run", "Check SCALEODM_NODE_ENGINE_COMMAND.")
    return ok("engine", f"{program} is there")


async def cluster_check(jobs: JobSettings) -> Check:
    """Whether the API server answers, and lets us see Jobs."""
    name = "kubernetes"
    advice = "Check SCALEODM_JOB_KUBECONFIG, SCALEODM_JOB_CONTEXT and SCALEODM_JOB_NAMESPACE, and the node's role."
    try:
        async with asyncio.timeout(_CLUSTER_S):
            cluster = await Cluster.connect(jobs.kubeconfig, jobs.context, jobs.namespace)
            try:
                await cluster.listing("jobs")
            finally:
                await cluster.close()
    except TimeoutError:
        return problem(name, f"the API server does not answer within {_CLUSTER_S:.0f} s", advice)
    except (ClusterUnknown, ClusterFault, BackendAway, BackendRefused, OSError) as fault:
        return problem(name, str(fault).rstrip("."), advice)
    return ok(name, f"the API server lets us see Jobs in {cluster.namespace}")


async def examine() -> list[Check]:
    """All of it."""
    settings, jobs, first = settings_check()
    if settings is None:
        return [first, disk_check(Path(os.environ.get("SCALEODM_NODE_DATA", "scaleodm-node")))]
    where = await cluster_check(jobs) if jobs is not None else engine_check(settings)
    found = [first, disk_check(settings.data), where]
    return [*found, await tailnet_check(read_settings(TailscaleSettings).socket)] if settings.uses_tailnet else found


if __name__ == "__main__":
    sys.stdout.write(written(asyncio.run(examine())))
