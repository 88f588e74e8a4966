"""The overlays for Tailscale: each side finds the other, and the program its tailscaled."""

import json
import re
from urllib.parse import urlsplit

import pytest

from common.settings import TailscaleSettings, read_settings
from node.settings import NodeSettings
from tests.deploy.conftest import Give
from tests.deploy.manifests import (
    PORTS,
    PROXY_LISTENS,
    Object,
    Rendered,
    overlay,
    pod_of,
    secrets_of,
)


def tailscaled(rendered: Rendered) -> tuple[Object, dict[str, str]]:
    """The container, and those of its variables whose values stand in the manifests."""
    ((_, container),) = [each for each in rendered.containers if each[1]["name"] == "tailscale"]
    settings = next(each["data"] for each in rendered.of("ConfigMap") if "TS_HOSTNAME" in each["data"])
    plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    named = {each["name"] for each in container["env"] if "configMapKeyRef" in each.get("valueFrom", {})}
    assert named == settings.keys()
    return container, plain | settings


@pytest.mark.parametrize("which", ["router", "node"])
def test_the_program_finds_the_tailscaled_beside_it(which: str, given: Give) -> None:
    """Its socket lies in a folder that both mount, where the program looks for it; it outlives the program."""
    rendered = overlay(f"tailscale-sidecar/{which}")
    container, variables_of = tailscaled(rendered)
    ((workload, program),) = rendered.ours
    given(rendered.environment(program, secrets_of(rendered)))
    settings = read_settings(TailscaleSettings)
    assert str(settings.socket) == variables_of["TS_SOCKET"]
    folder = str(settings.socket.parent)
    mounts = [{each["mountPath"]: each["name"] for each in one["volumeMounts"]} for one in (container, program)]
    assert mounts[0][folder] == mounts[1][folder]
    assert container["restartPolicy"] == "Always"
    assert container in pod_of(workload)["spec"]["initContainers"]
    assert (workload["spec"]["replicas"], workload["spec"]["strategy"]) == (1, {"type": "Recreate"})
    state = variables_of["TS_KUBE_SECRET"]
    assert state == f"scaleodm-{which}-tailscale"
    assert rendered.named("Secret", state)
    assert rendered.named("Role", state)


def test_in_userspace_the_node_calls_its_router_through_the_proxy(given: Give) -> None:
    """And is known by its tag, so it needs no token."""
    rendered = overlay("tailscale-sidecar/node")
    _, beside = tailscaled(rendered)
    ((_, program),) = rendered.ours
    environment = rendered.environment(program, secrets_of(rendered))
    del environment["SCALEODM_NODE_JOIN_TOKEN"]
    given(environment)
    settings = read_settings(NodeSettings)
    assert beside["TS_USERSPACE"] == "true"
    assert environment["SCALEODM_NODE_ROUTER_PROXY"] == f"http://{beside[PROXY_LISTENS]}"
    assert settings.url is None, "it finds its own name"
    router = overlay("tailscale-sidecar/router")
    _, of_router = tailscaled(router)
    ((_, other),) = router.ours
    rights = json.loads(router.environment(other, secrets_of(router))["SCALEODM_ROUTER_TAILNET_RIGHTS"])
    assert rights[beside["TS_EXTRA_ARGS"].removeprefix("--advertise-tags=")] == "node"
    (url,) = settings.router_urls
    assert (urlsplit(url).hostname or "").partition(".")[0] == of_router["TS_HOSTNAME"]
    assert urlsplit(url).port == PORTS["scaleodm/router"]
    assert of_router["TS_USERSPACE"] == "false", "the router calls nodes, and knows no proxy"


def test_by_the_operator_each_side_has_a_name_for_the_other() -> None:
    """The name in the tailnet that one side is given is the one that the other side leads to."""
    router_side, node_side = (overlay(f"tailscale-operator/{each}") for each in ("router", "node"))
    for own, name, other, leading in (
        (router_side, "scaleodm-router", node_side, "scaleodm-router"),
        (node_side, "scaleodm-node", router_side, "scaleodm-node-berlin"),
    ):
        given = own.named("Service", name)["metadata"]["annotations"]
        outward = other.named("Service", leading)
        assert given["tailscale.com/expose"] == "true"
        assert re.fullmatch("tag:[a-z-]+", given["tailscale.com/tags"])
        host = outward["metadata"]["annotations"]["tailscale.com/tailnet-fqdn"]
        assert re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+\.ts\.net", host)
        assert host.partition(".")[0] == given["tailscale.com/hostname"]
        assert outward["spec"]["type"] == "ExternalName"
        assert "selector" not in outward["spec"]
    ((_, node),) = node_side.ours
    environment = node_side.environment(node, secrets_of(node_side))
    assert environment["SCALEODM_NODE_URL"] == "http://scaleodm-node-berlin:3001"
    assert environment["SCALEODM_NODE_JOIN_TOKEN"], "behind the proxies nobody is known by the tailnet"
