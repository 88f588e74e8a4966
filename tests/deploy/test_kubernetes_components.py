"""What stands beside the programs: kind, Kueue, KEDA, Prometheus, and the page that tells of all of it."""

import re
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from common.settings import read_settings
from node.manifests import job
from node.settings import JobSettings, NodeSettings
from router.metrics import FIGURES
from router.settings import RouterSettings
from tests.deploy.conftest import Give
from tests.deploy.manifests import (
    EXTRAS,
    KUBERNETES,
    OVERLAYS,
    PROJECT,
    Rendered,
    containers_of,
    matches,
    overlay,
    pod_of,
    program_of,
    render,
    secrets_of,
)
from tests.deploy.rules import ALERTS, COMPONENTS, place, written
from tests.docs.settings import variables
from tests.node.test_manifests import ODM, SITE, record


def test_kind_maps_the_ports_that_the_services_take() -> None:
    """And S3's links lead to the mapped one."""
    (machine,) = yaml.safe_load((KUBERNETES / "overlays/kind/cluster.yaml").read_text())["nodes"]
    mapped = {each["containerPort"]: each["hostPort"] for each in machine["extraPortMappings"]}
    assert {each["listenAddress"] for each in machine["extraPortMappings"]} == {"127.0.0.1"}
    kind = overlay("kind")
    taken = {
        port["nodePort"]: port["port"]
        for each in kind.of("Service")
        for port in each["spec"]["ports"]
        if "nodePort" in port
    }
    assert mapped == taken
    (router,) = [each for _, each in kind.ours if program_of(each) == "scaleodm/router"]
    public = kind.environment(router, secrets_of(kind))["SCALEODM_S3_PUBLIC_ENDPOINT_URL"]
    assert urlsplit(public).port in mapped.values()


def test_kueue_covers_what_jobs_ask_for(given: Give) -> None:
    """What is not covered is never admitted; and the queue is the one that the node names."""
    more = overlay("production", *EXTRAS["production"])
    (local,) = more.of("LocalQueue")
    cluster = {each["kind"]: each for each in render(KUBERNETES / "components/kueue/cluster")}
    flavor, queue = cluster.pop("ResourceFlavor"), cluster.pop("ClusterQueue")
    assert cluster == {}
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    (quotas,) = group["flavors"]
    assert quotas["name"] == flavor["metadata"]["name"]
    assert [each["name"] for each in quotas["resources"]] == group["coveredResources"]
    namespace = {"kubernetes.io/metadata.name": local["metadata"]["namespace"]}
    assert matches(queue["spec"]["namespaceSelector"], namespace)
    (node,) = [each for _, each in more.ours if "SCALEODM_JOB_KUEUE_QUEUE" in more.environment(each, secrets_of(more))]
    given(more.environment(node, secrets_of(more)))
    settings = read_settings(JobSettings)
    made = job(record(), ODM, settings, SITE)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    asked = {name for each in containers_of(pod_of(made)["spec"]) for name in each["resources"]["requests"]}
    assert asked <= set(group["coveredResources"])


def test_the_workers_grow_by_figures_that_the_router_tells() -> None:
    """Names and labels of the query are those of /metrics, and its pattern takes the names that workers join with."""
    more = overlay("production", *EXTRAS["production"])
    (scaled,) = more.of("ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    told = {figure.name: figure for figure in FIGURES}
    for name, labels in re.findall(r"(scaleodm_\w+)(?:\{(\w+)=)?", query):
        assert name in told
        assert {labels} - {""} <= set(told[name].labels)
    (reason,) = re.findall(r'reason="(\w+)"', query)
    assert reason in told["scaleodm_router_unplaced_tasks"].help
    pattern = re.search(r'node=~"([^"]+)"', query)
    worker = more.named("StatefulSet", scaled["spec"]["scaleTargetRef"]["name"])
    assert pattern is not None
    assert re.fullmatch(pattern[1], f"{worker['metadata']['name']}-0")
    (container,) = pod_of(worker)["spec"]["containers"]
    assert more.environment(container, secrets_of(more))["SCALEODM_NODE_SLOTS"] == trigger["metadata"]["threshold"]
    scaling = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert (scaling, scaled["spec"]["minReplicaCount"]) == ({"selectPolicy": "Disabled"}, 0), (
        "none is ended at its work"
    )


def test_prometheus_finds_what_it_shall_scrape() -> None:
    """The Services by their labels, the port by its name, the token in a Secret of the same namespace."""
    more = overlay("production", *EXTRAS["production"])
    documented = secrets_of(more)
    for monitor in more.of("ServiceMonitor"):
        (service,) = [
            s for s in more.of("Service") if matches(monitor["spec"]["selector"], s["metadata"].get("labels", {}))
        ]
        assert service["metadata"]["name"] == monitor["metadata"]["name"]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in [each["name"] for each in service["spec"]["ports"]]
        key = endpoint["authorization"]["credentials"]
        assert (key["name"], key["key"]) in documented
        assert key["key"] in {*variables(RouterSettings), *variables(NodeSettings)}
    assert len(more.of("ServiceMonitor")) == 2


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_alerts_are_those_of_prometheus(component: str) -> None:
    """Else: python -m tests.deploy.rules."""
    assert place(component).read_text() == written(component)
    rules = yaml.safe_load(written(component))["spec"]["groups"]
    alerts = yaml.safe_load(ALERTS.read_text())["groups"]
    assert rules == [each for each in alerts if each["name"] in COMPONENTS[component]]
    assert {each["name"] for each in alerts} == {name for names in COMPONENTS.values() for name in names}


README = (KUBERNETES / "README.md").read_text()


def test_the_readme_tells_of_every_overlay_and_component() -> None:
    """What nobody can find does not exist."""
    components = {path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")}
    assert [each for each in [*OVERLAYS, *components] if each not in README] == []


def test_the_readme_loads_the_images_of_this_release() -> None:
    """Into the cluster for trying it out."""
    assert set(re.findall(r"scaleodm/\w+:([\w.]+)", README)) == {version("scaleodm")}


def test_the_overlay_of_ones_own_that_the_readme_shows_can_be_rendered(tmp_path: Path) -> None:
    """As it stands there, beside a clone of the repository."""
    (block,) = re.findall(r"```yaml\n(# kustomization.yaml\n.*?)```", README, re.DOTALL)
    (tmp_path / "scaleodm").symlink_to(PROJECT)
    own = tmp_path / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(block)
    rendered = Rendered(tuple(render(own)))
    assert len(rendered.of("ServiceMonitor")) == 2
    node = next(each for _, each in rendered.ours if program_of(each) == "scaleodm/node")
    assert rendered.environment(node, secrets_of(rendered))["SCALEODM_NODE_SLOTS"] == "8"
