"""How an engine ended, in a user's words (contract 3.3)."""

import pytest

from common.tasks import Cause
from common.verdicts import Verdict, verdict


@pytest.mark.contract("3.3 exit codes")
@pytest.mark.parametrize(
    ("code", "lines", "told", "cause"),
    [
        (1, [], "Cannot process dataset", Cause.ENGINE),
        (134, [], "Cannot process dataset", Cause.ENGINE),
        (139, [], "Cannot process dataset", Cause.ENGINE),
        (
            1,
            ["[ERROR]   first", "[ERROR]   Not enough images"],
            "Cannot process dataset: Not enough images",
            Cause.ENGINE,
        ),
        (137, [], "Not enough memory: Use fewer images, a lower quality, or a node with more memory", Cause.MEMORY),
        (-9, [], "Not enough memory: Use fewer images, a lower quality, or a node with more memory", Cause.MEMORY),
        (1, ["[ERROR]   MemoryError: no"], "Not enough memory: MemoryError: no", Cause.MEMORY),
        (132, [], "Unsupported CPU", Cause.INFRASTRUCTURE),
        (3, [], "Installation issue", Cause.INFRASTRUCTURE),
        (42, ["[ERROR]   "], "Processing failed (42)", Cause.ENGINE),
        (-15, [], "Processing failed (143)", Cause.INFRASTRUCTURE),
    ],
)
def test_exit_codes_become_sentences(code: int, lines: list[str], told: str, cause: Cause) -> None:
    """NodeODM's words, then the engine's own; and as what decides about another attempt."""
    assert verdict(code, lines) == Verdict(told, cause)
