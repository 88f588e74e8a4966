"""The manifests of deploy/kubernetes: valid, safe, and true of what the programs need."""

import functools
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx
import kubernetes_validate
import pytest
import yaml
from kubernetes.aio import client
from pydantic_settings import BaseSettings

from common.server import configured
from common.settings import S3Settings, read_settings
from node.app import InCluster, NodeProgram, OnThisMachine
from node.cluster.api import PATHS, Cluster
from node.cluster.options import options_job
from node.manifests import job
from node.settings import JobSettings, NodeSettings
from router.app import RouterProgram
from router.database import MOST_CONNECTIONS
from router.settings import RouterSettings
from tests.deploy.conftest import Give
from tests.deploy.manifests import (
    EVERYTHING,
    EXAMPLE,
    EXTRAS,
    KUBERNETES,
    OVERLAYS,
    PORTS,
    PROJECT,
    PROXY_LISTENS,
    WHOLE_EXAMPLE,
    Object,
    Rendered,
    containers_of,
    kind_secrets,
    labels_of,
    matches,
    name_of,
    overlay,
    pod_of,
    program_of,
    references,
    secrets_in,
    secrets_of,
)
from tests.deploy.pod_security import violations
from tests.docs.settings import classes, variables
from tests.kubernetes_standin import ROLE
from tests.node.test_manifests import ODM, SITE, record
from tests.node.test_manifests import settings as job_settings

VERSIONS = ("1.31", "1.34", "1.37")
"""Kubernetes from the oldest that we support to the newest whose schemas there are."""
FOREIGN = {
    "keda.sh/v1alpha1",
    "kueue.x-k8s.io/v1beta2",
    "monitoring.coreos.com/v1",
}
"""Groups of other projects' objects, which no schema of Kubernetes knows."""
RESERVED_CONNECTIONS = 3
"""Of Postgres' 100, for its administrator."""


# Valid


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    """The library reads a megabyte of definitions for every object."""
    plain = kubernetes_validate.utils.schema_contents
    kubernetes_validate.utils.schema_contents = functools.cache(plain)
    yield
    kubernetes_validate.utils.schema_contents = plain


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_every_object_is_one_of_kubernetes(rendered: Rendered, kubernetes: str) -> None:
    """By the API server's own schemas, in which no field may be unknown."""
    for each in rendered.objects:
        if each["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(each, kubernetes, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    """The schemas are strict, or the test above means little."""
    broken = overlay("production").named("Deployment", "scaleodm-node")
    broken = broken | {"spec": broken["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_every_folder_is_rendered_here() -> None:
    """Nothing lies in deploy/kubernetes that no test looks at."""
    kustomizations = {path.parent for path in KUBERNETES.rglob("kustomization.yaml")}
    used: set[Any] = set()
    ahead = [KUBERNETES / "overlays" / name for name in OVERLAYS]
    ahead += [KUBERNETES / "components" / each for names in EXTRAS.values() for each in names]
    while ahead:
        folder = ahead.pop().resolve()
        if folder not in used:
            used.add(folder)
            told = yaml.safe_load((folder / "kustomization.yaml").read_text())
            parts = [folder / each for each in [*told.get("resources", []), *told.get("components", [])]]
            ahead += [each for each in parts if each.is_dir()]
    assert kustomizations - used == {KUBERNETES / "components/kueue/cluster"}, "tested by itself"


def test_nothing_is_there_twice_and_all_of_it_is_in_one_namespace(rendered: Rendered) -> None:
    """Which the overlay names."""
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered.objects]
    assert len(names) == len(set(names))
    (namespace,) = rendered.of("Namespace")
    others = {each["metadata"].get("namespace") for each in rendered.objects if each["kind"] != "Namespace"}
    assert others == {namespace["metadata"]["name"]}


# What the programs read


def settings_of(container: Object) -> tuple[type[BaseSettings], ...]:
    """What the program of a container reads."""
    own = (RouterSettings,) if program_of(container) == "scaleodm/router" else (NodeSettings, JobSettings)
    return (*own, *(each for each in classes() if each.__module__ == "common.settings"))


def test_every_variable_is_a_setting_of_its_program(rendered: Rendered) -> None:
    """One that is not would have no effect, and nobody would be told."""
    for _, container in rendered.ours:
        known = {name for kind in settings_of(container) for name in variables(kind)}
        given = set(rendered.environment(container, secrets_of(rendered)))
        assert given - known == set(), program_of(container)


async def test_the_programs_take_their_environment_and_have_the_routes_of_the_probes(
    rendered: Rendered, given: Give
) -> None:
    """Every setting is read, every combination checked, and every probe and scrape leads to a route."""
    for _, container in rendered.ours:
        given(rendered.environment(container, secrets_of(rendered)))
        app, settings = program(container)
        (port,) = container["ports"]
        assert (settings.host, settings.port, port["containerPort"]) == (
            "0.0.0.0",
            PORTS[program_of(container)],
            settings.port,
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod") as http:
            told = (await http.get("/openapi.json")).json()["paths"]
            assert probed(container, port["name"]) <= told.keys()
            assert (await http.get("/healthz")).status_code == httpx.codes.OK
            assert (await http.get("/metrics")).status_code == httpx.codes.UNAUTHORIZED


def program(container: Object) -> tuple[Any, RouterSettings | NodeSettings]:
    """The program of a container, built from the environment and not started."""
    s3 = read_settings(S3Settings)
    if program_of(container) == "scaleodm/router":
        router = read_settings(RouterSettings)
        return RouterProgram(router, s3).app, router
    node = read_settings(NodeSettings)
    site: InCluster | OnThisMachine = OnThisMachine(node)
    if node.backend == "kubernetes":
        cluster = Cluster(client.ApiClient(client.Configuration()), "scaleodm")
        site = InCluster(node, read_settings(JobSettings), s3, cluster)
    return NodeProgram(node, s3, site).app, node


def probed(container: Object, port: str) -> set[str]:
    """The paths of its probes, which all go to its one port."""
    probes = [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness") if f"{kind}Probe" in container]
    assert {each["httpGet"]["port"] for each in probes} == {port}
    return {each["httpGet"]["path"] for each in probes}


def test_a_pod_is_ready_by_readyz_and_alive_by_healthz(rendered: Rendered) -> None:
    """Alive is whoever answers; more would restart every replica when what they all need is away."""
    for _, container in rendered.ours:
        assert (
            container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/healthz"
        )
        if "readinessProbe" in container:
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_links_to_services_would_become_settings(rendered: Rendered) -> None:
    """Kubernetes puts NAME_PORT of every Service into every pod, as an address; SCALEODM_ROUTER_PORT is a setting."""
    links = {f"{each['metadata']['name']}_PORT".upper().replace("-", "_") for each in rendered.of("Service")}
    assert links & {*variables(RouterSettings), *variables(NodeSettings)}
    assert {pod_of(each)["spec"]["enableServiceLinks"] for each in rendered.workloads} == {False}


def test_every_secret_that_is_referred_to_is_documented() -> None:
    """Key by key, in secrets.example: what is needed is there to be filled in, what may stay away is behind a #."""
    wanted: dict[tuple[str, str], bool] = {}
    for each in EVERYTHING:
        if each[0] != "kind":
            for name, key, optional in references(overlay(*each).objects):
                wanted[name, key] = wanted.get((name, key), True) and optional
    written = set(secrets_in(EXAMPLE))
    assert secrets_in(WHOLE_EXAMPLE).keys() == wanted.keys()
    usual = {("scaleodm-s3", "AWS_ACCESS_KEY_ID"), ("scaleodm-s3", "AWS_SECRET_ACCESS_KEY")}
    joining = {("scaleodm-router", "SCALEODM_ROUTER_NODE_TOKEN"), ("scaleodm-node", "SCALEODM_NODE_JOIN_TOKEN")}
    assert written == {each for each, optional in wanted.items() if not optional} | usual | joining


def test_the_secrets_for_kind_are_those_that_its_overlay_refers_to() -> None:
    """And their values are new each time."""
    made = kind_secrets()
    wanted = {(name, key): optional for name, key, optional in references(overlay("kind").objects)}
    assert made.keys() <= wanted.keys()
    assert [each for each, optional in wanted.items() if not optional and each not in made] == []
    kind_secrets.cache_clear()
    assert kind_secrets()["postgres", "POSTGRES_PASSWORD"] != made["postgres", "POSTGRES_PASSWORD"]
    assert made["scaleodm-router", "SCALEODM_ROUTER_NODE_TOKEN"] == made["scaleodm-node", "SCALEODM_NODE_JOIN_TOKEN"]


def test_the_secret_of_the_jobs_is_the_one_that_there_is(rendered: Rendered) -> None:
    """The node writes its name into Jobs; no manifest refers to it."""
    for _, container in rendered.ours:
        name = rendered.environment(container, secrets_of(rendered)).get("SCALEODM_JOB_S3_SECRET")
        assert name is None or (name, "AWS_ACCESS_KEY_ID") in secrets_of(rendered)


def test_addresses_lead_to_services(rendered: Rendered) -> None:
    """What names a host of this namespace names a Service of it and one of its ports; localhost is the proxy beside."""
    services = {name_of(each): {port["port"] for port in each["spec"]["ports"]} for each in rendered.of("Service")}
    nodes = overlay("tailscale-operator/router").of("Service")
    services |= {name_of(each): {3001} for each in nodes if each["spec"].get("type") == "ExternalName"}
    proxies = {
        each["value"] for _, c in rendered.containers for each in c.get("env", []) if each["name"] == PROXY_LISTENS
    }
    for _, container in rendered.ours:
        for name, value in rendered.environment(container, secrets_of(rendered)).items():
            for url in value.split(",") if re.match(r"(https?|postgresql)://", value) else ():
                host, port = urlsplit(url).hostname or "", urlsplit(url).port
                service = host.removeprefix("scaleodm-worker-0.")
                if "." not in service:
                    assert port in services.get(service, ()) or f"{host}:{port}" in proxies, name


def test_no_secret_is_in_the_manifests(rendered: Rendered) -> None:
    """The one that there is is empty: tailscaled keeps its state in it."""
    for each in rendered.of("Secret"):
        assert each.keys() == {"apiVersion", "kind", "metadata"}


# What hangs together


def test_selectors_take_the_pods_that_they_mean(rendered: Rendered) -> None:
    """Of Services, budgets and workloads: the pods of the workload of that name and no others, Jobs' least of all."""
    pods = [*rendered.workloads, job(record(), ODM, job_settings(), SITE), options_job("o", job_settings(), SITE)]
    for each in rendered.of("Service", "PodDisruptionBudget", "Deployment", "StatefulSet"):
        selector = each["spec"].get("selector")
        if selector is not None:
            selector = {"matchLabels": selector} if each["kind"] == "Service" else selector
            chosen = [pod["metadata"]["name"] for pod in pods if matches(selector, labels_of(pod))]
            assert chosen == [each["metadata"]["name"]], f"{each['kind']} {each['metadata']['name']}"


def test_services_lead_to_the_ports_of_their_pods(rendered: Rendered) -> None:
    """By the port's name; its number is what the addresses say."""
    for service in rendered.of("Service"):
        if "selector" not in service["spec"]:
            continue
        (workload,) = [each for each in rendered.workloads if each["metadata"]["name"] == service["metadata"]["name"]]
        named = {
            port["name"]: port["containerPort"]
            for each in containers_of(pod_of(workload)["spec"])
            for port in each.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"]


def test_autoscalers_have_something_to_scale(rendered: Rendered) -> None:
    """A workload that exists, whose number nobody else sets, and which asks for what is measured."""
    for scaler in rendered.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = rendered.named(target["kind"], target["name"])
        assert target["apiVersion"] == workload["apiVersion"]
        assert "replicas" not in workload["spec"]
        for each in pod_of(workload)["spec"]["containers"]:
            assert each["resources"]["requests"]["cpu"]


def test_as_many_routers_as_postgres_has_connections_for() -> None:
    """Each holds a pool, and one that listens; while they are replaced there is never one more."""
    production = overlay("production")
    (scaler,) = production.of("HorizontalPodAutoscaler")
    router = production.named("Deployment", "scaleodm-router")
    most = scaler["spec"]["maxReplicas"] + router["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert most * (MOST_CONNECTIONS + 1) <= 100 - RESERVED_CONNECTIONS
    assert scaler["spec"]["minReplicas"] >= 2


def test_what_is_replicated_can_lose_one(rendered: Rendered) -> None:
    """A machine that is drained takes one of them at a time, and they stand apart where they can."""
    for workload in rendered.of("Deployment"):
        budget = rendered.named("PodDisruptionBudget", workload["metadata"]["name"])
        assert budget["spec"]["maxUnavailable"] == 1
        spreads = pod_of(workload)["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spreads} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(matches(each["labelSelector"], labels_of(workload)) for each in spreads)


def test_there_is_time_to_end_well(rendered: Rendered) -> None:
    """The Service lets go first; then requests get their time, the lease and the connections are given back."""
    shutdown_s = configured(lambda *_: None, "127.0.0.1", 0).timeout_graceful_shutdown  # type: ignore[arg-type]
    assert shutdown_s is not None
    for workload, container in rendered.ours:
        before_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod_of(workload)["spec"]["terminationGracePeriodSeconds"] >= before_s + shutdown_s + 15
        if workload["kind"] == "Deployment":
            assert before_s >= 3, "connections still come while everybody hears that the pod goes"


def test_every_folder_that_is_written_is_a_volume(rendered: Rendered) -> None:
    """The root file system is read-only."""
    for workload, container in rendered.ours:
        spec = pod_of(workload)["spec"]
        volumes = {each["name"] for each in [*spec["volumes"]]}
        volumes |= {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert set(mounted.values()) <= volumes
        environment = rendered.environment(container, secrets_of(rendered))
        assert {"/tmp", environment.get("SCALEODM_NODE_DATA", "/tmp")} <= mounted.keys()


def test_the_images_are_those_that_the_dockerfile_makes(rendered: Rendered) -> None:
    """Every image of ours has a target, this release's tag, its entry point kept, and its user."""
    dockerfile = (PROJECT / "deploy/Dockerfile").read_text()
    for workload, container in rendered.ours:
        target = program_of(container).partition("/")[2]
        stage = dockerfile.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
        assert stage, f"no target {target}"
        assert container["image"] == f"scaleodm/{target}:{version('scaleodm')}"
        command = ", ".join(f'"{word}"' for word in container["args"])
        assert f"CMD [{command}]" in stage
        assert "command" not in container, "tini is the entry point"
        user = pod_of(workload)["spec"]["securityContext"]["runAsUser"]
        assert f"USER {user}:{user}" in dockerfile
        named = rendered.environment(container, secrets_of(rendered))
        for name in ("SCALEODM_JOB_STAGES_IMAGE", "SCALEODM_JOB_ENGINE_IMAGE"):
            if name in named:
                image, _, tag = named[name].rpartition(":")
                assert f" AS {image.partition('/')[2]}\n" in dockerfile
                assert tag == version("scaleodm")


def test_the_images_are_set_in_one_place() -> None:
    """Another registry and tag reach every place where an image is named, the node's variable too."""
    told = yaml.safe_load((KUBERNETES / "images/kustomization.yaml").read_text())
    assert {each["name"] for each in told["images"]} == {"scaleodm/router", "scaleodm/node", "scaleodm/stages"}
    production = overlay("production", *EXTRAS["production"])
    named = {container["image"] for _, container in production.ours}
    stages = [production.environment(each, secrets_of(production)) for _, each in production.ours]
    named |= {each["SCALEODM_JOB_STAGES_IMAGE"] for each in stages if "SCALEODM_JOB_STAGES_IMAGE" in each}
    assert named == {f"{each['newName']}:{each['newTag']}" for each in told["images"]}


# Rights


def test_every_pod_keeps_to_the_restricted_level(rendered: Rendered) -> None:
    """Which the namespace enforces; the Jobs that the node makes there do too."""
    (namespace,) = rendered.of("Namespace")
    pods = [pod_of(each)["spec"] for each in rendered.workloads]
    settings = job_settings(storage_class="fast", gpus=1)
    pods += [pod_of(each)["spec"] for each in (job(record(), ODM, settings, SITE), options_job("o", settings, SITE))]
    found = {what.partition(":")[0] for pod in pods for what in violations(pod)}
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    if level == "restricted":
        assert found == set()
    else:
        assert found == {"tailscale"}, "the one beside the router, which changes the pod's network"
        assert [each["metadata"]["name"] for each in rendered.workloads] == ["scaleodm-router"], "no run is there"


def test_what_breaks_the_restricted_level_would_be_found() -> None:
    """Each of its rules, or the test above means little."""
    container = {
        "name": "c",
        "securityContext": {"allowPrivilegeEscalation": True, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
        "ports": [{"hostPort": 80}],
    }
    pod = {
        "hostNetwork": True,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 0},
        "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
        "containers": [container],
    }
    assert len(violations(pod)) == 8


def test_only_the_node_may_do_anything_with_kubernetes(rendered: Rendered) -> None:
    """By the Role that its tests run against, in this namespace; and a tailscaled beside it in its own Secret."""
    written = {each["kind"]: each for each in yaml.safe_load_all(ROLE.read_text())}
    assert {kind for rule in written["Role"]["rules"] for kind in rule["resources"]} == {*PATHS, "pods/log"}
    assert rendered.of("ClusterRole", "ClusterRoleBinding") == []
    for role in rendered.of("Role"):
        name = role["metadata"]["name"]
        own_secret = {"resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "patch", "update"]}
        assert role["rules"] == (
            written["Role"]["rules"] if name == "scaleodm-node" else [{"apiGroups": [""], **own_secret}]
        )
    bound = set()
    for binding in rendered.of("RoleBinding"):
        assert rendered.named("Role", binding["roleRef"]["name"])
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", binding["metadata"]["namespace"])
        bound.add(subject["name"])
    assert {pod_of(each)["spec"]["serviceAccountName"] for each in rendered.workloads if has_token(each)} == bound


def has_token(workload: Object) -> bool:
    """Whether a container of its pods can speak to the API server."""
    spec = pod_of(workload)["spec"]
    sources = [source for volume in spec["volumes"] for source in volume.get("projected", {}).get("sources", [])]
    return spec.get("automountServiceAccountToken", True) is not False or any(
        "serviceAccountToken" in s for s in sources
    )


def test_a_router_has_no_token(rendered: Rendered) -> None:
    """Not even where a tailscaled beside it has one."""
    for workload, container in rendered.ours:
        if program_of(container) == "scaleodm/router":
            assert pod_of(workload)["spec"]["automountServiceAccountToken"] is False
            assert not any("serviceaccount" in each["mountPath"] for each in container["volumeMounts"])


def test_accounts_exist(rendered: Rendered) -> None:
    """A pod whose account is not there is never made."""
    accounts = {each["metadata"]["name"] for each in rendered.of("ServiceAccount")}
    named = {pod_of(each)["spec"].get("serviceAccountName", "default") for each in rendered.workloads}
    assert named <= {*accounts, "default"}
