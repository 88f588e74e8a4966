"""What must hold for the project as a whole: its layout and its lock; `tests/docs` has its documents."""

import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["router", "node", "common"])
def test_nobody_else_ships_a_package_of_our_name(name: str) -> None:
    """Our folders are the packages; a stranger's `common` would silently replace ours (style 5)."""
    assert set(packages_distributions().get(name, [])) <= {"scaleodm"}


def test_every_test_folder_is_a_package() -> None:
    """Else `import node` finds `tests/node` (style 5)."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_lock_has_hashes_and_no_addresses() -> None:
    """No address of a registry may stand in any commit."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^[A-Za-z0-9._\[\],-]+==", lock, re.MULTILINE)
    assert len(pinned) > 80
    assert lock.count("--hash=sha256:") > len(pinned)


@pytest.mark.parametrize("number", range(1, 13))
def test_every_invariant_has_a_test_that_carries_its_name(number: int) -> None:
    """Design 5; `i4` in the name of the test for I4."""
    names = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert [name for name in names if f"i{number}" in name.split("_")], f"no test is named after I{number}"
