"""An engine, our images in it, and the stack made of them: once for all tests, and away afterwards."""

from collections.abc import Iterator

import pytest

from tests.images.bases import Bases, Index, prepared
from tests.images.engine import Engine, NoEngine, engine
from tests.images.images import MIB, PREFIX, Image, build
from tests.images.stack import ComposeStack, running_stack

TARGETS = ("router", "node", "stages", "test")
_FIGURES: list[str] = []


@pytest.fixture(scope="session")
def running_engine() -> Iterator[Engine]:
    """One that answers, or the reason why these tests are skipped."""
    try:
        with engine() as found:
            yield found
    except NoEngine as none:
        pytest.skip(str(none))


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """How pip reaches its index."""
    return Index.of_this_machine(tmp_path_factory.mktemp("index") / "secrets")


@pytest.fixture(scope="session")
def bases(running_engine: Engine, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """What our images stand on and beside."""
    try:
        return prepared(running_engine, index, tmp_path_factory.mktemp("bases"))
    except NoEngine as none:
        pytest.skip(str(none))


@pytest.fixture(scope="session")
def images(running_engine: Engine, bases: Bases, index: Index) -> dict[str, Image]:
    """Every target."""
    built = {target: build(running_engine, bases, index, target, f"{PREFIX}/{target}") for target in TARGETS}
    _FIGURES.extend(
        f"{each.target}: built in {each.built_in_s:.0f} s, {each.own_bytes / MIB:.0f} MiB above what it stands on"
        for each in built.values()
    )
    return built


@pytest.fixture(scope="session")
def stack(
    running_engine: Engine, bases: Bases, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeStack]:
    """compose.yml, running."""
    assert images
    with running_stack(running_engine, bases, tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="session")
def flight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Images of a synthetic flight, that the embedded engine turns into an orthophoto."""
    from common.embedded.flight import render_flight

    return [str(path) for path in render_flight(tmp_path_factory.mktemp("flight"))]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of this run."""
    for line in _FIGURES:
        terminalreporter.write_line(line)
