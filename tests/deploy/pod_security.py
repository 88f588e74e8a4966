"""What Kubernetes' Pod Security Standard `restricted` asks of a pod, and what we ask beside it. Pure."""

from collections.abc import Iterator
from typing import Any

from tests.deploy.manifests import containers_of

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What of a pod's spec the API server would refuse in our namespace; and a root file system that can be written."""
    return [
        *_of_pod(pod),
        *(f"{each['name']}: {what}" for each in containers_of(pod) for what in _of_container(each, pod)),
    ]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        if kinds := volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is {kinds}"
    if pod.get("securityContext", {}).get("sysctls"):
        yield "sysctls"


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    whole = pod.get("securityContext", {}) | own
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"capabilities are {own.get('capabilities')}"
    if whole.get("runAsNonRoot") is not True or whole.get("runAsUser", 0) == 0:
        yield f"runs as {whole.get('runAsUser')}"
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"seccomp is {whole.get('seccompProfile')}"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the machine"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "can write its root file system"
