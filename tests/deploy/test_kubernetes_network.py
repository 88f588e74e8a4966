"""Who may talk to whom: every connection that the programs make is let pass, and others are not."""

from dataclasses import replace

from node.manifests import MANAGED_BY, job
from tests.deploy.manifests import (
    EXTRAS,
    Rendered,
    labels_of,
    name_of,
    overlay,
)
from tests.deploy.network import Peer, admitted
from tests.node.test_manifests import ODM, SITE, record
from tests.node.test_manifests import settings as job_settings

JOB_LABELS = labels_of(job(record(), ODM, job_settings(), SITE))
API_SERVER = Peer("the API server", "172.18.0.2")
METADATA = Peer("the machine's metadata", "169.254.169.254")
PUBLIC = Peer("the internet", "203.0.113.9")
LAN = Peer("something in the private network", "192.168.7.7")
DNS = Peer("DNS", "10.244.9.53", {"k8s-app": "kube-dns"}, "kube-system")
NEIGHBOUR = Peer("a pod of another namespace", "10.244.9.9", {"app": "x"}, "default")
STRANGER = Peer("a stranger in the namespace", "10.244.1.66", {"app": "x"}, "scaleodm")
RUN = Peer("a run", "10.244.1.50", JOB_LABELS, "scaleodm")


def peers(rendered: Rendered) -> dict[str, Peer]:
    """Every workload's pod, by its name."""
    found = {}
    for number, each in enumerate(rendered.workloads):
        name = each["metadata"]["name"]
        found[name] = Peer(name, f"10.244.1.{10 + number}", labels_of(each), each["metadata"]["namespace"])
    return found


class Network:
    """The policies of one overlay."""

    def __init__(self, rendered: Rendered) -> None:
        self._policies = rendered.of("NetworkPolicy")

    def passes(self, source: Peer, target: Peer, *ports: int) -> bool:
        """Whether all of these ports can be reached."""
        return all(admitted(self._policies, source, target, port) for port in ports)

    def blocks(self, source: Peer, target: Peer, *ports: int) -> bool:
        """Whether none of them can."""
        return not any(admitted(self._policies, source, target, port) for port in ports)


ALL_PORTS = (22, 80, 443, 3000, 3001, 5432, 6443, 8080, 9000)


def test_the_policies_admit_what_a_cluster_for_trying_out_does() -> None:
    """Postgres and S3 stand in the namespace itself."""
    found, net = peers(overlay("kind")), Network(overlay("kind"))
    router, node, postgres, s3 = (found[name] for name in ("scaleodm-router", "scaleodm-node", "postgres", "s3"))
    assert net.passes(router, postgres, 5432)
    assert net.passes(router, node, 3001)
    assert net.passes(node, router, 3000)
    assert net.passes(node, API_SERVER, 443, 6443)
    assert net.passes(RUN, node, 3001)
    assert net.passes(RUN, router, 3000)
    assert all(net.passes(each, s3, 9000) for each in (router, node, RUN))
    assert net.passes(PUBLIC, router, 3000)
    assert net.passes(PUBLIC, s3, 9000)
    for pod in (node, RUN, s3, STRANGER, NEIGHBOUR, PUBLIC):
        assert net.blocks(pod, postgres, *ALL_PORTS), pod.name
    for pod in (STRANGER, NEIGHBOUR, PUBLIC, s3, postgres):
        assert net.blocks(pod, node, *ALL_PORTS), pod.name
    for pod in (postgres, s3):
        assert all(net.blocks(pod, each, *ALL_PORTS) for each in (PUBLIC, API_SERVER, router, node, METADATA))
    assert all(net.blocks(RUN, each, *ALL_PORTS) for each in (API_SERVER, PUBLIC, LAN, METADATA, NEIGHBOUR, STRANGER))


def test_the_policies_admit_what_a_cluster_in_production_does() -> None:
    """Postgres in the private network, S3 behind TLS somewhere."""
    found, net = peers(overlay("production")), Network(overlay("production"))
    router, node = found["scaleodm-router"], found["scaleodm-node"]
    assert net.passes(router, LAN, 5432)
    assert net.passes(router, node, 3001)
    assert net.passes(node, router, 3000)
    assert net.passes(node, API_SERVER, 443, 6443)
    assert net.passes(RUN, node, 3001)
    assert net.passes(RUN, router, 3000)
    assert all(net.passes(each, PUBLIC, 443) for each in (router, node, RUN))
    assert net.passes(NEIGHBOUR, router, 3000), "an Ingress or a Gateway"
    for pod in (node, RUN):
        assert net.blocks(pod, LAN, 5432), pod.name
    for pod in (NEIGHBOUR, STRANGER, PUBLIC):
        assert net.blocks(pod, node, *ALL_PORTS), pod.name
    assert all(net.blocks(RUN, each, *ALL_PORTS) for each in (API_SERVER, LAN, METADATA, NEIGHBOUR, STRANGER))
    assert net.blocks(router, LAN, 22, 80, 443, 6443)
    assert net.blocks(router, METADATA, *ALL_PORTS)


def test_nobody_reaches_a_run_and_everybody_reaches_dns(rendered: Rendered) -> None:
    """Images of strangers are processed in it."""
    (namespace,) = rendered.of("Namespace")
    run = replace(RUN, namespace=name_of(namespace))
    net, pods = Network(rendered), [*peers(rendered).values(), run]
    for each in pods:
        assert net.blocks(each, run, *ALL_PORTS), each.name
        assert admitted(rendered.of("NetworkPolicy"), each, DNS, 53, "UDP")
        assert net.blocks(each, DNS, 80)
        assert net.blocks(each, METADATA, 80), each.name
    for each in (NEIGHBOUR, replace(STRANGER, namespace=run.namespace), PUBLIC):
        assert net.blocks(each, run, *ALL_PORTS)


def test_a_node_by_itself_is_reached_by_its_router() -> None:
    """Which is elsewhere, and comes through an Ingress."""
    found, net = peers(overlay("production-node")), Network(overlay("production-node"))
    node = found["scaleodm-node"]
    assert net.passes(NEIGHBOUR, node, 3001)
    assert net.passes(node, PUBLIC, 443)
    assert net.passes(RUN, PUBLIC, 443), "S3, and the router of split tasks"
    assert net.passes(RUN, node, 3001)


def test_what_is_added_brings_its_connections() -> None:
    """Prometheus to nodes, routers to workers and nodes elsewhere, workers to their router and S3."""
    plain, more = Network(overlay("production")), overlay("production", *EXTRAS["production"])
    found, net = peers(more), Network(more)
    router, node, worker = (found[f"scaleodm-{name}"] for name in ("router", "node", "worker"))
    prometheus = Peer("Prometheus", "10.244.9.90", {"app": "prometheus"}, "monitoring")
    assert plain.blocks(prometheus, node, 3001)
    assert net.passes(prometheus, node, 3001)
    assert net.passes(prometheus, router, 3000)
    assert net.passes(router, worker, 3001)
    assert net.passes(worker, router, 3000)
    assert net.passes(worker, PUBLIC, 443)
    assert plain.blocks(router, LAN, 3001)
    assert net.passes(router, LAN, 443, 3000, 3001)
    assert all(net.blocks(each, worker, *ALL_PORTS) for each in (node, RUN, NEIGHBOUR, STRANGER, PUBLIC))
    assert all(net.blocks(worker, each, *ALL_PORTS) for each in (API_SERVER, METADATA, node, RUN))


def test_a_node_in_a_tailnet_reaches_it_and_no_more() -> None:
    """tailscaled goes out by TLS and UDP; who comes from the tailnet comes from within the pod."""
    found, net = peers(overlay("tailscale-sidecar/node")), Network(overlay("tailscale-sidecar/node"))
    node, policies = found["scaleodm-node"], overlay("tailscale-sidecar/node").of("NetworkPolicy")
    assert admitted(policies, node, PUBLIC, 41641, "UDP")
    assert net.passes(node, PUBLIC, 443)
    assert net.passes(node, API_SERVER, 443, 6443)
    assert net.passes(RUN, node, 3001)
    assert not admitted(policies, RUN, PUBLIC, 41641, "UDP")
    assert all(net.blocks(each, node, *ALL_PORTS) for each in (NEIGHBOUR, STRANGER, PUBLIC))


def test_a_router_in_a_tailnet_reaches_it() -> None:
    """And Postgres and S3 as everywhere."""
    rendered = overlay("tailscale-sidecar/router")
    net, policies = Network(rendered), rendered.of("NetworkPolicy")
    router = peers(rendered)["scaleodm-router"]
    assert admitted(policies, router, PUBLIC, 41641, "UDP")
    assert net.passes(router, API_SERVER, 443, 6443)
    assert net.passes(router, LAN, 5432)
    assert net.blocks(router, LAN, 22, 80, 8080)


def test_by_the_operator_routers_and_nodes_meet_in_its_proxies() -> None:
    """Which stand in its namespace, on both sides."""
    proxy = Peer("a proxy of the operator", "10.244.9.77", {"app": "ts"}, "tailscale")
    router_side, node_side = (overlay(f"tailscale-operator/{each}") for each in ("router", "node"))
    router, node = peers(router_side)["scaleodm-router"], peers(node_side)["scaleodm-node"]
    assert Network(router_side).passes(router, proxy, 3001)
    assert Network(router_side).passes(proxy, router, 3000)
    net = Network(node_side)
    assert net.passes(node, proxy, 3000)
    assert net.passes(RUN, proxy, 3000)
    assert net.passes(proxy, node, 3001)
    assert net.blocks(NEIGHBOUR, node, 3001)
    assert net.blocks(RUN, proxy, 22, 80, 443, 6443)


def test_jobs_are_selected_by_what_the_node_marks_them_with() -> None:
    """The label by which the policies know a run's pods."""
    assert JOB_LABELS["app.kubernetes.io/managed-by"] == MANAGED_BY
