"""What must hold for the project as a whole: its layout, its documents, its lock."""

import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from common.settings import S3Settings
from node.settings import NodeSettings
from router.settings import RouterSettings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["router", "node", "common"])
def test_nobody_else_ships_a_package_of_our_name(name: str) -> None:
    """Our folders are the packages; a stranger's `common` would silently replace ours (style 5)."""
    assert set(packages_distributions().get(name, [])) <= {"scaleodm"}


def test_every_test_folder_is_a_package() -> None:
    """Else `import node` finds `tests/node` (style 5)."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def variables(settings: type[BaseSettings]) -> list[str]:
    """The environment variables that settings are read from."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    found = []
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        if alias is None:
            found.append((prefix + name).upper())
        else:
            found.append(alias if isinstance(alias, str) else str(getattr(alias, "choices", [name])[0]))
    return found


@pytest.mark.parametrize("settings", [RouterSettings, NodeSettings, S3Settings])
def test_every_setting_is_in_the_readme(settings: type[BaseSettings]) -> None:
    """A setting that nobody can find does not exist."""
    readme = (ROOT / "README.md").read_text()
    assert [name for name in variables(settings) if f"`{name}`" not in readme] == []


def test_the_readme_names_no_setting_that_is_not_there() -> None:
    """Nor one that was renamed."""
    named = set(re.findall(r"`(SCALEODM_[A-Z0-9_]+)`", (ROOT / "README.md").read_text()))
    known = {name for settings in (RouterSettings, NodeSettings, S3Settings) for name in variables(settings)}
    assert named - known == set()


def test_the_lock_has_hashes_and_no_addresses() -> None:
    """No address of a registry may stand in any commit."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^[A-Za-z0-9._\[\],-]+==", lock, re.MULTILINE)
    assert len(pinned) > 80
    assert lock.count("--hash=sha256:") > len(pinned)
