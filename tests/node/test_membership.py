"""How long a node waits before it calls its router again."""

import pytest

from node.membership import RETRY_AFTER_S, retry_wait


@pytest.mark.parametrize(("rounds", "wait"), list(enumerate((*RETRY_AFTER_S, 15.0, 15.0))))
def test_waits_grow_to_a_quarter_of_a_minute(rounds: int, wait: float) -> None:
    """At a router of which nothing is known yet, and at one with the usual heartbeat of 5 s."""
    assert retry_wait(rounds, 15.0) == wait


def test_a_node_that_has_joined_never_waits_longer_than_the_router_takes_to_call_it_late() -> None:
    """A router with short clocks came back after an outage, and a node slept on until it was lost."""
    assert [retry_wait(rounds, 1.5) for rounds in range(5)] == [0.5, 1, 1.5, 1.5, 1.5]
