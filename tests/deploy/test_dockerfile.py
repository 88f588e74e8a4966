"""deploy/Dockerfile and what it runs while images are built, read: `make test-images` builds them."""

import importlib.metadata
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from node.engines.orthomosaic import ORTHOMOSAIC
from node.manifests import PUBLISH, job
from node.settings import JobSettings, NodeSettings
from router.settings import RouterSettings
from tests.docs.settings import classes, variables
from tests.node.test_manifests import SITE, container, record, settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
OURS = ("router", "node", "stages")
PROGRAMS = {"router": ("router", "common/command"), "node": ("node", "common/command"), "stages": ("node/stages",)}
"""What each image is for, as folders; what they import beyond is found."""


def modules_of(target: str) -> list[str]:
    """Every module that an image's programs may come to import."""
    paths = [path for folder in PROGRAMS[target] for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    # Alembic runs the migrations in its own way; a Job's stages alone have no processes to look after.
    left_out = ("__main__", ".migrations.", *(("node.stages.run",) if target == "stages" else ()))
    return [name for name in names if not any(each in f"{name}." for each in left_out)]


@cache
def lines() -> tuple[tuple[str, str, str], ...]:
    """Every instruction: the stage that it stands in, its word, the rest."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    found = []
    stage = ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2].strip()
        found.append((stage, word, rest.strip()))
    return tuple(found)


def of(stage: str, word: str) -> list[str]:
    """What an instruction says in a stage and those that it is made of, the nearest last."""
    (base,) = (rest.rpartition(" AS ")[0] for name, each, rest in lines() if name == stage and each == "FROM")
    inherited = of(base, word) if any(name == base for name, _, _ in lines()) else []
    return inherited + [rest for name, each, rest in lines() if (name, each) == (stage, word)]


def environment(stage: str) -> dict[str, str]:
    """The variables that an image sets."""
    return dict(pair.split("=", 1) for rest in of(stage, "ENV") for pair in shlex.split(rest))


@cache
def locked() -> ModuleType:
    """deploy/images/locked.py."""
    spec = importlib.util.spec_from_file_location("locked", ROOT / "deploy/images/locked.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extras_of(target: str) -> list[str]:
    """What deploy/images/packages.sh is given for a target."""
    (command,) = (rest for rest in of(f"build-{target}", "RUN") if "packages.sh" in rest)
    return command.partition("packages.sh")[2].split()


@pytest.mark.parametrize("target", [*OURS, "test"])
def test_a_target_has_no_rights_and_ends_when_it_is_told(target: str) -> None:
    """A user by number, a PID 1, SIGTERM; and its packages from the stage that is named for it."""
    user = JobSettings.model_fields["user"].default
    assert of(target, "USER")[-1] == f"{user}:{user}"
    assert of(target, "ENTRYPOINT")[-1] == '["/usr/bin/tini", "--"]'
    assert of(target, "STOPSIGNAL") == ["SIGTERM"]
    assert f"--from=build-{target} /opt/scaleodm /opt/scaleodm" in of(target, "COPY")


@pytest.mark.parametrize(("target", "kind"), [("router", RouterSettings), ("node", NodeSettings)])
def test_a_program_listens_where_the_image_says(target: str, kind: type[RouterSettings | NodeSettings]) -> None:
    """On the code's own port, by all addresses; and its health is asked at that port."""
    prefix = str(kind.model_config["env_prefix"])
    port = str(kind.model_fields["port"].default)
    told = environment(target)
    assert told[f"{prefix}HOST"] == "0.0.0.0"
    assert told[f"{prefix}PORT"] == port
    assert of(target, "EXPOSE") == [port]
    assert of(target, "CMD")[-1] == json.dumps(["scaleodm", target])
    (health,) = of(target, "HEALTHCHECK")
    assert f'"{prefix}PORT"' in health
    assert '"/opt/healthy.py"' in health


def test_every_variable_that_an_image_sets_is_a_setting() -> None:
    """Or Python's, pip's, the shell's."""
    known = {name for kind in classes() for name in variables(kind)}
    named = {name for target in OURS for name in environment(target)}
    others = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    assert named - known == others


def test_the_stages_are_run_as_a_job_runs_them() -> None:
    """The command of the image is that of the Job's containers."""
    publish = container(job(record(), ORTHOMOSAIC, settings(), SITE), PUBLISH)
    assert of("stages", "CMD")[-1] == json.dumps(publish["command"])


def test_it_names_no_address_and_takes_its_bases_as_arguments() -> None:
    """Which registry and which index are asked is the builder's business."""
    assert "://" not in DOCKERFILE
    bases = {rest.rpartition(" AS ")[0] for _, word, rest in lines() if word == "FROM"}
    stages = {stage for stage, _, _ in lines()}
    assert bases - stages == {"${BASE}", "${NODE_BASE}"}
    assert "ARG BASE=python:3.11-slim\n" in DOCKERFILE


def test_pip_has_its_secrets_wherever_it_runs() -> None:
    """And nowhere else: no other instruction could leave them in a layer."""
    for stage, word, rest in lines():
        mounts = re.findall(r"--mount=type=secret,id=(\w+)", rest)
        assert mounts == (["pip", "ca"] if word == "RUN" and "packages.sh" in rest else []), (stage, word)
        assert word != "ARG" or not re.search("TOKEN|PASSWORD|SECRET|KEY|INDEX", rest)


@pytest.mark.parametrize("target", [*OURS, "test"])
def test_what_is_copied_is_there_and_not_left_out(target: str) -> None:
    """`COPY` of files that .dockerignore hides would fail, and only where the image is built."""
    ignored = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each and each[0] != "#"]
    for stage in (target, f"build-{target}"):
        for rest in of(stage, "COPY"):
            if "--from" not in rest:
                for source in [each for each in rest.split()[:-1] if not each.startswith("--")]:
                    assert (ROOT / source).exists(), source
                    assert not [each for each in ignored if Path(source).match(each)], source


def test_nothing_that_git_leaves_out_gets_into_an_image() -> None:
    """Least of all the secrets of a stack."""
    ignored = {each.removeprefix("**/").rstrip("/") for each in (ROOT / ".dockerignore").read_text().splitlines()}
    assert {each.rstrip("/") for each in (ROOT / ".gitignore").read_text().splitlines()} <= ignored
    assert {".env", ".git"} <= ignored


# The part of the lock


def installed(extras: list[str]) -> set[str]:
    """What the project needs here with these extras, by what the installed packages themselves say."""
    found: set[str] = set()
    ahead = [("scaleodm", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while ahead:
        if (asked := ahead.pop()) not in seen:
            seen.add(asked)
            found.add(locked().normal(asked[0]))
            ahead += _needs(*asked)
    return found - {"scaleodm"}


def _needs(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What one package needs on this machine, and with which extras of that."""
    if name == "scaleodm":  # as pyproject.toml has it now, not as it was when this environment was made
        optional = _project()["optional-dependencies"]
        texts = [*_project()["dependencies"], *(each for extra in extras for each in optional[extra])]
    else:
        texts = importlib.metadata.requires(name) or []
    for need in map(Requirement, texts):
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield need.name, frozenset(need.extras)


@pytest.mark.parametrize("target", [*OURS, "test"])
def test_a_targets_part_of_the_lock_is_what_it_needs(target: str) -> None:
    """Nothing is missing, by the packages' own words; and what is beyond them comes of markers alone."""
    extras = extras_of(target)
    project = _project()
    part = locked().part((ROOT / "requirements.lock").read_text(), locked().directly_needed(project, extras))
    names = set(locked().blocks(part))
    assert installed(extras) - names == set()
    assert part.count("--hash=sha256:") > len(names)
    assert "://" not in part


_ALONE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError("the image has no " + name, name=name)

sys.meta_path.insert(0, Hidden())
import {modules}
"""
"""A Python that lacks what the image lacks."""


@pytest.mark.parametrize("target", OURS)
def test_an_image_holds_every_package_that_its_program_imports(target: str) -> None:
    """Imported by a Python that knows no packages but those of the target's part of the lock."""
    roots = locked().directly_needed(_project(), extras_of(target))
    kept = locked().reached(locked().blocks((ROOT / "requirements.lock").read_text()), roots) | {"scaleodm"}
    shipped = importlib.metadata.packages_distributions()
    hidden = {module for module, owners in shipped.items() if not kept & {locked().normal(each) for each in owners}}
    assert {"pytest", "rasterio"} <= hidden
    script = _ALONE.format(hidden=hidden, modules=", ".join(modules_of(target)))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_what_is_not_in_the_lock_is_told() -> None:
    """By name, and what to do."""
    with pytest.raises(locked().LockUnusable, match="no flask; make it anew with: make lock"):
        locked().part("", ["flask"])
    with pytest.raises(locked().LockUnusable, match="no extra gui, only"):
        locked().directly_needed(_project(), ["gui"])


def test_a_package_of_two_versions_is_kept_in_both() -> None:
    """Markers say which one is installed."""
    first = "a==1 ; x\n    --hash=sha256:1\n    # via b\n"
    second = "a==2 ; y\n    --hash=sha256:2\n    # via\n    #   b\n    #   c\n"
    lock = first + second + "b==1\n    # via d\nc==1\n"
    assert locked().part(lock, ["b"]) == lock.replace("c==1\n", "")
    assert locked().part(lock, ["c"]).count("a==") == 2


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


# What runs in the containers


@pytest.fixture
def answering() -> Iterator[int]:
    """The port of a server that is well at /healthz."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_health_check_tells_well_from_away(answering: int) -> None:
    """By its exit code, as the engine wants it."""

    def check(port: int) -> int:
        argv = [sys.executable, "-IS", str(ROOT / "deploy/images/healthy.py"), "PORT"]
        return subprocess.run(argv, env={"PORT": str(port)}, capture_output=True, timeout=60).returncode

    assert check(answering) == 0
    assert check(9) == 1
