"""Who may talk to whom: the meaning of NetworkPolicies, as far as ours use it. Pure.

A connection passes if the source's policies let it out and the target's let it in. A pod that no policy of a direction
selects is open in that direction; else one rule must admit the other side and the port.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from tests.deploy.manifests import matches

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod of a namespace, or, without one, an address outside of the cluster."""

    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None


def admitted(policies: Sequence[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection from one to the other comes about."""
    out = _lets(policies, "Egress", source, target, port, protocol)
    return out and _lets(policies, "Ingress", target, source, port, protocol)


def _lets(policies: Sequence[Policy], direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    if pod.namespace is None:
        return True
    chosen = [each["spec"] for each in policies if _selects(each, direction, pod)]
    rules = [(rule, pod.namespace) for spec in chosen for rule in spec.get(direction.lower(), [])]
    return not chosen or any(_admits(rule, direction, own, other, port, protocol) for rule, own in rules)


def _selects(policy: Policy, direction: str, pod: Peer) -> bool:
    spec = policy["spec"]
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and direction in spec["policyTypes"]
        and matches(spec["podSelector"], pod.labels)
    )


def _admits(rule: Mapping[str, Any], direction: str, own: str, other: Peer, port: int, protocol: str) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from")
    ports = rule.get("ports")
    return (peers is None or any(_is_peer(each, own, other) for each in peers)) and (
        ports is None or any(_is_port(each, port, protocol) for each in ports)
    )


def _is_port(allowed: Mapping[str, Any], port: int, protocol: str) -> bool:
    return bool(allowed.get("protocol", "TCP") == protocol and allowed.get("port", port) == port)


def _is_peer(allowed: Mapping[str, Any], own: str, other: Peer) -> bool:
    if "ipBlock" in allowed:
        return _is_in(allowed["ipBlock"], other.address)
    if other.namespace is None:
        return False
    in_namespace = (
        matches(allowed["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
        if "namespaceSelector" in allowed
        else other.namespace == own
    )
    return in_namespace and matches(allowed.get("podSelector", {}), other.labels)


def _is_in(block: Mapping[str, Any], address: str) -> bool:
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and not any(found in ip_network(each) for each in block.get("except", []))
