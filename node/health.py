"""What a node needs, as `/readyz` tells it.

A node that has joined no router yet is ready all the same: a router lets it in only if it can reach it, which it could
not behind a service that waits for its readiness.
"""

from collections.abc import Sequence

from common.health import Finding, Probe, State
from node.backends import Backend, BackendAway, BackendRefused
from node.membership import Membership

UNHEARD_S = 30.0
"""A router that has not answered for longer is away, or this node is cut off from it."""


def backend_probe(backend: Backend) -> Probe:
    """Whether what keeps the tasks does so."""

    async def ask() -> Sequence[Finding]:
        try:
            says = await backend.check()
        except BackendAway:
            return [Finding("backend", State.FAILING, "The Kubernetes API does not answer. Jobs go on without it.")]
        except BackendRefused:
            says = "The Kubernetes API refuses what this node asks of it; its log says what."
            return [Finding("backend", State.FAILING, says)]
        except OSError as trouble:
            # This replica's own disk: nothing can be taken on, nor started.
            says = f"The node's folder cannot be written ({trouble.strerror})."
            return [Finding("backend", State.FAILING, says, vital=True)]
        return [Finding("backend", State.OK, says)]

    return Probe(["backend"], ask)


def router_probe(membership: Membership | None) -> Probe:
    """Whether a router answers this node's heartbeats."""

    async def ask() -> Sequence[Finding]:
        return [router(membership is not None, membership.unheard_s if membership is not None else None)]

    return Probe(["router"], ask)


def router(joins: bool, unheard_s: float | None) -> Finding:
    """How it stands with the router. `unheard_s`: for how long none has answered; None: none ever has. Pure."""
    if not joins:
        return Finding("router", State.OK, "This node joins no router.")
    if unheard_s is None:
        return Finding(
            "router", State.FAILING, "This node is of no federation: no router has let it in, or one removed it."
        )
    if unheard_s > UNHEARD_S:
        return Finding("router", State.FAILING, f"No router has answered for {unheard_s:.0f} s. Runs go on.")
    return Finding("router", State.OK, "A router answers this node's heartbeats.")
