"""What the tests of the manifests are given."""

import os
from collections.abc import Callable, Mapping

import pytest

from tests.deploy.manifests import EVERYTHING, Rendered, overlay

Give = Callable[[Mapping[str, str]], None]


@pytest.fixture(params=EVERYTHING, ids="+".join)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Each overlay, and those to which something can be added with all of that."""
    return overlay(*request.param)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Gives the process a container's environment, and nothing that stood there before."""

    def give(environment: Mapping[str, str]) -> None:
        for name in [name for name in os.environ if name.startswith(("SCALEODM_", "AWS_"))]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return give
