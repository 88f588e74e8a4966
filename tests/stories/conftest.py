"""A federation with the real engine, for the stories."""

from collections.abc import Iterator

import pytest
from pyodm import Node

from common.embedded.flight import render_flight
from common.embedded.stack import Stack
from tests.client import Wire


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router and two nodes of one slot each, with the engine that the demo uses."""
    with Stack(tmp_path_factory.mktemp("stories")) as running:
        yield running


@pytest.fixture(scope="session")
def flight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six overlapping images."""
    return [str(path) for path in render_flight(tmp_path_factory.mktemp("flight"), rows=2, columns=3, width=700)]


@pytest.fixture
def router(stack: Stack) -> Node:
    """The unmodified PyODM client, pointed at the router."""
    return Node.from_url(f"{stack.router_url}?token={stack.user_token}")


@pytest.fixture
def node(stack: Stack) -> Node:
    """The same client, pointed at a node alone."""
    return Node.from_url(f"{stack.node_urls['node-1']}?token={stack.node_user_token('node-1')}")


@pytest.fixture(params=["router", "node", "kubernetes"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """The NodeODM API of each of our programs; that routers over routers are no different, the contract tests show."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found
