"""Engine log → stage and percent."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm.catalogue import STAGES
from node.progress import STAGE_ENDS, Progress, advance, stage_begin


@pytest.mark.contract("6.2 source")
def test_the_weights_are_odms() -> None:
    """Contract 9.2."""
    assert tuple(STAGE_ENDS) == STAGES
    assert list(STAGE_ENDS.values()) == sorted(STAGE_ENDS.values())
    assert stage_begin("opensfm") == 5


@pytest.mark.contract("6.2 source", "10 12")
def test_stages_move_the_percent() -> None:
    """Begin, counted work, end."""
    lines = [
        "[INFO]    Running opensfm stage",
        "[INFO]    dense: 5/10 depth maps",
        "[INFO]    Finished opensfm stage",
        "[INFO]    Running openmvs stage",
        "[INFO]    dense: 1/2 depth maps",
        "[INFO]    Running dataset stage",
        "[INFO]    ODM app finished - today",
    ]
    seen = [progress.percent for progress in accumulate(lines, advance, initial=Progress())]
    assert seen == [0, 5, 15, 25, 25, 37.5, 37.5, 100]


@pytest.mark.contract("6.2 never back")
@given(
    st.lists(st.text() | st.sampled_from([f"[INFO]    {w} {s} stage" for w in ("Running", "Finished") for s in STAGES]))
)
def test_progress_never_goes_back(lines: list[str]) -> None:
    """I6, whatever an engine prints."""
    seen = [progress.percent for progress in accumulate(lines, advance, initial=Progress())]
    assert seen == sorted(seen)
    assert 0 <= seen[-1] <= 100
