"""How an engine ended, in a user's words (contract 3.3)."""

import pytest

from node.verdicts import verdict


@pytest.mark.parametrize(
    ("code", "lines", "told"),
    [
        (1, [], "Cannot process dataset"),
        (134, [], "Cannot process dataset"),
        (139, [], "Cannot process dataset"),
        (1, ["[ERROR]   first", "[ERROR]   Not enough images"], "Cannot process dataset: Not enough images"),
        (137, [], "Not enough memory: Use fewer images, a lower quality, or a node with more memory"),
        (-9, [], "Not enough memory: Use fewer images, a lower quality, or a node with more memory"),
        (1, ["[ERROR]   MemoryError: no"], "Not enough memory: MemoryError: no"),
        (132, [], "Unsupported CPU"),
        (3, [], "Installation issue"),
        (42, ["[ERROR]   "], "Processing failed (42)"),
        (-15, [], "Processing failed (143)"),
    ],
)
def test_exit_codes_become_sentences(code: int, lines: list[str], told: str) -> None:
    """NodeODM's words, then the engine's own."""
    assert verdict(code, lines) == told
