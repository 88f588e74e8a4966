"""The table of moves, and what states mean on the wire."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.tasks import ENDED, MOVES, Code, MoveRefused, State, again, canceled, check_move
from tests.common.nodeodm.test_messages import task


def test_every_state_has_a_row_and_leads_somewhere() -> None:
    """No task can get stuck."""
    assert set(MOVES) == set(State)
    assert all(MOVES[state] for state in State)


def test_an_illegal_move_names_both_states_and_the_way_out() -> None:
    """Errors are a product."""
    with pytest.raises(MoveRefused, match="task u is completed and cannot become running; from completed"):
        check_move("u", State.COMPLETED, State.RUNNING)


@pytest.mark.contract("3.5 cancel wins")
def test_cancel_wins() -> None:
    """A canceled task never becomes completed (I7); only a restart revives it."""
    assert MOVES[State.CANCELED] == {State.STAGING}
    assert all(State.CANCELED in MOVES[state] for state in State if state not in {State.UPLOADING, State.CANCELED})


@pytest.mark.contract("3.1 codes")
@given(st.sampled_from(State), st.booleans())
def test_ten_is_shown_only_by_a_task_that_has_never_begun(state: State, begun: bool) -> None:
    """I6, and the trap of contract 8.3."""
    code = task(state=state, begun=begun).code
    assert (code is Code.QUEUED) == (state is State.QUEUED and not begun)


@pytest.mark.contract("3.5 restart")
@given(st.sampled_from(sorted(ENDED)))
def test_a_restart_leaves_nothing_of_the_last_run(state: State) -> None:
    """Contract 3.5."""
    ended = task(state=state, processing_ms=5, progress=100.0, error="e", began_ms=1, begun=True, images_count=3)
    fresh = again(replace(ended, memory_factor=1.5), 2, 3, 1234)
    assert (fresh.uuid, fresh.attempt, fresh.created_ms, fresh.state) == ("u", 2, 1234, State.STAGING)
    assert (fresh.first_attempt, fresh.memory_factor) == (3, 1.0)
    assert (fresh.progress, fresh.processing_time_ms(9), fresh.error, fresh.begun) == (0, -1, None, False)


@pytest.mark.contract("3.4 minus one")
def test_a_canceled_task_shows_no_time() -> None:
    """Contract 3.4."""
    ended = canceled(task(began_ms=1))
    assert (ended.code, ended.processing_time_ms(9), ended.progress) == (50, -1, 100)
