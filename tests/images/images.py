"""The targets of deploy/Dockerfile, built; and what an image is made of, looked at from inside."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.images.bases import ROOT, Bases, Index
from tests.images.engine import BUILD_WITHIN_S, Engine

USER = 10001
PREFIX = "scaleodm-under-test"
"""Names of our images here: nobody else's are touched."""
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Image:
    """One target, built."""

    engine: Engine
    target: str
    name: str
    built_in_s: float
    own_bytes: int
    """What it adds to what it stands on."""

    def run(self, script: str, *options: str) -> str:
        """What a shell script says in a container of it, confined as compose confines it."""
        confined = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp"]
        return self.engine.docker(
            "run", "--rm", *confined, *options, "--entrypoint", "/bin/sh", self.name, "-c", script
        )


def build(engine: Engine, bases: Bases, index: Index, target: str, name: str, **arguments: str) -> Image:
    """Build a target on these bases."""
    given: Mapping[str, str] = ({"BASE": bases.base} if bases.base else {}) | arguments
    options = [f"--build-arg={key}={value}" for key, value in given.items()]
    begun = time.monotonic()
    engine.docker(
        *("build", "-q", "-f", str(ROOT / "deploy" / "Dockerfile"), "--target", target, "-t", name),
        *(*options, *index.arguments, str(ROOT)),
        within_s=BUILD_WITHIN_S,
    )
    return Image(engine, target, name, time.monotonic() - begun, _own_bytes(engine, name))


def _own_bytes(engine: Engine, name: str) -> int:
    """The bytes of the layers that deploy/Dockerfile makes: all above what Dockerfile-made bases end with."""
    lines = engine.docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", name)
    total = 0
    for line in lines.splitlines():
        size, made_by = line.split("\t", 1)
        total += int(size)
        if "prepare.sh" in made_by and "COPY" in made_by:
            break
    return total
