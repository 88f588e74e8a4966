"""The manifests of deploy/kubernetes as Kustomize renders them, and what can be looked up in them."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

Object = dict[str, Any]

PROJECT = Path(__file__).parents[2]
KUBERNETES = PROJECT / "deploy/kubernetes"
EXAMPLE = (KUBERNETES / "secrets.example").read_text()
WHOLE_EXAMPLE = re.sub(r"^(\s+)# (\w+: FILL-IN)$", r"\1\2", EXAMPLE, flags=re.MULTILINE)
"""With the keys that may stay away."""
OVERLAYS = tuple(
    sorted(
        str(path.parent.relative_to(KUBERNETES / "overlays"))
        for path in KUBERNETES.glob("overlays/**/kustomization.yaml")
    )
)
EXTRAS = {
    "production": ("monitoring", "kueue", "keda", "nodes-elsewhere"),
    "production-node": ("monitoring-node", "kueue"),
}
"""Components that are for the user to add, with what they can be added to."""
EVERYTHING = [(name,) for name in OVERLAYS] + [(name, *EXTRAS[name]) for name in sorted(EXTRAS)]
PORTS = {"scaleodm/router": 3000, "scaleodm/node": 3001}
"""The images of our programs, which read our settings, and where these listen."""
PROXY_LISTENS = "TS_OUTBOUND_HTTP_PROXY_LISTEN"
_SECRET = "0123456789abcdef0123456789abcdef"


def kubectl() -> str:
    """The one of the virtual environment, else one of this machine."""
    here = Path(sys.executable).parent
    found = shutil.which("kubectl", path=os.pathsep.join([str(here), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("no kubectl here to render the manifests with")
    return found


def render(folder: Path) -> list[Object]:
    """What `kubectl apply -k` of this folder would apply."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"kubectl kustomize {folder}: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def overlay(name: str, *components: str) -> "Rendered":
    """An overlay, with components on top as a user would add them in a folder of their own."""
    folder = KUBERNETES / "overlays" / name
    if not components:
        return Rendered(tuple(render(folder)))
    with tempfile.TemporaryDirectory(prefix="scaleodm-overlay-") as own:
        above = Path(os.path.relpath(KUBERNETES, Path(own).resolve()))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "scaleodm",
            "resources": [str(above / "overlays" / name)],
            "components": [*(str(above / "components" / each) for each in components), str(above / "images")],
        }
        Path(own, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return Rendered(tuple(render(Path(own))))


@dataclass(frozen=True)
class Rendered:
    """Everything that one overlay applies."""

    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        """The one of this kind and name."""
        found = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects are {kind} {name}"
        return found[0]

    @property
    def workloads(self) -> list[Object]:
        """What makes pods."""
        return self.of("Deployment", "StatefulSet")

    @property
    def containers(self) -> Iterator[tuple[Object, Object]]:
        """Each container, the initial ones too, with its workload."""
        for workload in self.workloads:
            for container in containers_of(pod_of(workload)["spec"]):
                yield workload, container

    @property
    def ours(self) -> Iterator[tuple[Object, Object]]:
        """Those that run our programs."""
        for workload, container in self.containers:
            if container["image"].partition(":")[0] in PORTS:
                yield workload, container

    def environment(self, container: Object, secrets: "Secrets") -> dict[str, str]:
        """What a container finds in its environment, as the kubelet would make it."""
        found: dict[str, str] = {}
        for each in container.get("envFrom", []):
            found |= self.named("ConfigMap", each["configMapRef"]["name"])["data"]
        for each in container.get("env", []):
            value = self._value(each, secrets)
            if value is not None:
                found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
        return found

    def _value(self, variable: Object, secrets: "Secrets") -> str | None:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "fieldRef" in source:
            return "scaleodm-worker-0"
        reference = source["secretKeyRef"]
        value = secrets.get((reference["name"], reference["key"]))
        assert value is not None or reference.get("optional"), f"{reference} is in no Secret, and must be"
        return value


Secrets = Mapping[tuple[str, str], str]
"""Values of Secrets, by name and key."""


def pod_of(workload: Object) -> Object:
    """The template of its pods."""
    template: Object = workload["spec"]["template"]
    return template


def containers_of(pod: Object) -> list[Object]:
    """Every container of a pod, the initial ones first."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def labels_of(workload: Object) -> dict[str, str]:
    """The labels of its pods."""
    found: dict[str, str] = pod_of(workload)["metadata"]["labels"]
    return found


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels. An empty one takes all."""
    unknown = selector.keys() - {"matchLabels", "matchExpressions"}
    assert not unknown, f"a selector with {unknown}, which Kubernetes does not know"
    pairs = selector.get("matchLabels", {}).items()
    return all(labels.get(key) == value for key, value in pairs) and all(
        _holds(each, labels) for each in selector.get("matchExpressions", [])
    )


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(f"no such operator: {expression['operator']}")


def secrets_in(text: str) -> dict[tuple[str, str], str]:
    """The values of Secrets that are written as YAML."""
    return {
        (each["metadata"]["name"], key): value
        for each in yaml.safe_load_all(text)
        for key, value in each["stringData"].items()
    }


def references(objects: Sequence[Object]) -> Iterator[tuple[str, str, bool]]:
    """(Secret, key, whether it may stay away) of every reference to a Secret, wherever it stands."""
    for found in _mappings(list(objects)):
        if "secretKeyRef" in found:
            reference = found["secretKeyRef"]
            yield reference["name"], reference["key"], bool(reference.get("optional"))
        elif isinstance(found.get("credentials"), dict):
            yield found["credentials"]["name"], found["credentials"]["key"], True


def _mappings(found: Any) -> Iterator[Object]:
    if isinstance(found, dict):
        yield found
        for each in found.values():
            yield from _mappings(each)
    elif isinstance(found, list):
        for each in found:
            yield from _mappings(each)


def name_of(found: Object) -> str:
    """An object's name."""
    return str(found["metadata"]["name"])


def program_of(container: Object) -> str:
    """`scaleodm/router` or `scaleodm/node`."""
    return str(container["image"]).partition(":")[0]


def secrets_of(rendered: Rendered) -> Secrets:
    """Values for all keys of secrets.example, or those that the overlay for kind makes."""
    if any(each["metadata"]["name"] == "postgres" for each in rendered.workloads):
        return kind_secrets()
    filled = dict.fromkeys(secrets_in(WHOLE_EXAMPLE), _SECRET)
    filled["scaleodm-router", "SCALEODM_ROUTER_DATABASE_URL"] = "postgresql://u:p@10.0.0.5:5432/scaleodm"
    hooks = (("scaleodm-router", "SCALEODM_ROUTER_WEBHOOK"), ("scaleodm-node", "SCALEODM_NODE_WEBHOOK"))
    return filled | dict.fromkeys(hooks, "https://hooks.example.org/")


@functools.cache
def kind_secrets() -> Secrets:
    """What the script prints."""
    script = KUBERNETES / "overlays/kind/secrets.sh"
    return secrets_in(subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True).stdout)
