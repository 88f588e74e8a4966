""".github/workflows, and what a release packs, read against the project: targets, files, settings, rights."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.settings import classes, variables

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
TEXT = "\n".join(path.read_text() for path in FILES)
MAKEFILE = (ROOT / "Makefile").read_text()


def workflow(path: Path) -> dict[str, Any]:
    """One of them; YAML 1.1 reads `on` as true."""
    found = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step of every job, with the name of its file."""
    for path in FILES:
        for job in workflow(path)["jobs"].values():
            yield from ((path.name, step) for step in job["steps"])


def scripts() -> list[str]:
    """What steps run."""
    return [str(step["run"]) for _, step in steps() if "run" in step]


def test_all_four_are_there() -> None:
    """Tests, cluster, images, release."""
    assert [path.stem for path in FILES] == ["cluster", "images", "release", "tests"]
    assert "bash .ci/run" in "\n".join(scripts())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_a_workflow_may_read_and_a_job_says_what_more_it_needs(path: Path) -> None:
    """No job has a right by default; none runs for ever."""
    told = workflow(path)
    assert told["permissions"] == {"contents": "read"}
    assert told["on"]
    for name, job in told["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 90, name
        assert job["runs-on"] == "ubuntu-24.04"
        more = {right for right, kind in job.get("permissions", {}).items() if kind == "write"}
        assert not more or path.stem == "release", name


def test_rights_of_a_release_are_split_among_its_jobs() -> None:
    """What tests runs with no right, what pushes images may not write to the repository, and the other way round."""
    jobs = workflow(ROOT / ".github/workflows/release.yml")["jobs"]
    assert "permissions" not in jobs["check"]
    assert jobs["images"]["permissions"]["contents"] == "read"
    assert jobs["bundle"]["permissions"] == {"contents": "write"}
    assert (jobs["images"]["needs"], jobs["bundle"]["needs"]) == ("check", "images")


def test_every_action_is_pinned() -> None:
    """By a version or a commit, and no credential is left in a checkout."""
    used = [(file, step) for file, step in steps() if "uses" in step]
    assert len(used) > 10
    for file, step in used:
        assert re.fullmatch(r"[\w-]+/[\w/-]+@(v\d+(\.\d+){0,2}|[0-9a-f]{40})", step["uses"]), file
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, file


def test_every_target_of_make_is_there() -> None:
    """With the variables that it is given."""
    for script in scripts():
        for line in re.findall(r"^\s*make (.+)$", script, re.MULTILINE):
            words = [each for each in re.sub(r'"[^"]*"', "x", line).split() if not each.startswith("-")]
            for word in words:
                name, equals, _ = word.partition("=")
                wanted = rf"\$\({name}\)|^{name} \?=" if equals else rf"^{name}:"
                assert re.search(wanted, MAKEFILE, re.MULTILINE), f"make {line}: no {name}"


def test_every_file_that_is_named_is_there() -> None:
    """Patterns match something."""
    named = re.findall(r"(?<![\w./-])(?:\.ci|deploy|tests|node|common|router|docs)/[\w./*-]+", TEXT)
    paths = [each for path in FILES for each in _paths(workflow(path))]
    assert "deploy/Dockerfile" in named
    for each in {*(each.rstrip(".") for each in named), *paths}:
        assert list(ROOT.glob(each)), each


def _paths(told: dict[str, Any]) -> list[str]:
    return list((told["on"].get("pull_request") or {}).get("paths", []))


def test_every_target_of_the_dockerfile_is_there_and_released() -> None:
    """Those that manifests and compose name, but the tests' own."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    built = set(re.findall(r"--target (\w+)", TEXT))
    matrix = workflow(ROOT / ".github/workflows/release.yml")["jobs"]["images"]["strategy"]["matrix"]["target"]
    assert {*built, *matrix} <= set(re.findall(r" AS (\w+)$", dockerfile, re.MULTILINE))
    assert matrix == ["router", "node", "stages"]
    arguments = re.findall(r"^ +(\w+)=", _build()["with"]["build-args"] and TEXT, re.MULTILINE)
    assert {"VERSION", "REVISION"} <= set(arguments) & set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))


def _build() -> dict[str, Any]:
    (found,) = (step for _, step in steps() if step.get("uses", "").startswith("docker/build-push-action@"))
    return found


def test_a_release_is_for_two_architectures_with_its_provenance() -> None:
    """And says of what it was made."""
    told = _build()["with"]
    assert told["platforms"] == "linux/amd64,linux/arm64"
    assert (told["provenance"], told["sbom"], told["push"]) == ("mode=max", True, True)
    assert any(step.get("uses", "").startswith("actions/attest-build-provenance@") for _, step in steps())


def test_every_variable_is_a_setting_or_one_of_the_tests() -> None:
    """A misspelt one would test something else."""
    named = set(re.findall(r"\bSCALEODM_\w+", TEXT))
    known = {name for kind in classes() for name in variables(kind)}
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    assert {"SCALEODM_TEST_NODE_IMAGE", "SCALEODM_TEST_S3_ENDPOINT", "SCALEODM_TEST_BASES"} <= named
    assert [name for name in named - known if f'"{name}"' not in sources] == []


def test_nothing_that_a_stranger_can_write_becomes_part_of_a_script() -> None:
    """A branch's name or a title between `${{` and `}}` would be run as shell."""
    for script in scripts():
        assert not re.search(r"\$\{\{ *github\.(event|head_ref|ref_name)", script)
    assert "pull_request_target" not in TEXT


def test_no_address_of_a_host_is_written_down() -> None:
    """Where images go is said by the repository's variables."""
    assert not [each for each in re.findall(r"\w+://[^\s\"']+", TEXT) if not each.startswith("http://$gateway")]


# The bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the release makes it."""
    folder = tmp_path_factory.mktemp("bundle")
    _packed(folder)
    return folder / "scaleodm-1.2.3.tar.gz"


def _packed(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(ROOT / "deploy/bundle.py"), *(words or ("registry.example/org", "1.2.3", str(folder)))]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def _content(bundle: Path, name: str) -> str:
    with tarfile.open(bundle) as tar:
        found = tar.extractfile(f"scaleodm-1.2.3/{name}")
        assert found is not None
        return io.TextIOWrapper(found).read()


def test_a_bundle_names_the_images_of_its_release(bundle: Path) -> None:
    """In the one place that the manifests have for it, and in that of compose."""
    images = yaml.safe_load(_content(bundle, "deploy/kubernetes/images/kustomization.yaml"))["images"]
    assert {(each["newName"], each["newTag"]) for each in images} == {
        (f"registry.example/org/{target}", "1.2.3") for target in ("router", "node", "stages")
    }
    example = _content(bundle, ".env.example")
    assert "IMAGE_PREFIX=registry.example/org\n" in example
    assert "IMAGE_TAG=1.2.3\n" in example


def test_a_bundle_has_what_compose_and_kustomize_read(bundle: Path) -> None:
    """Unchanged but for the images, and with the sum that is published beside it."""
    with tarfile.open(bundle) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = [path for path in (ROOT / "deploy/kubernetes").rglob("*") if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= names
    assert {"compose.yml", "deploy/compose/haproxy.cfg", "deploy/compose/new-env.sh", "LICENSE"} <= names
    assert _content(bundle, "compose.yml") == (ROOT / "compose.yml").read_text()
    told = bundle.with_suffix(".gz.sha256").read_text()
    assert told == f"{hashlib.sha256(bundle.read_bytes()).hexdigest()}  {bundle.name}\n"


def test_the_same_files_make_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    """Byte for byte, whoever makes it."""
    _packed(tmp_path)
    assert (tmp_path / bundle.name).read_bytes() == bundle.read_bytes()


def test_a_bundle_without_a_name_is_refused(tmp_path: Path) -> None:
    """With an example of what was expected."""
    refused = _packed(tmp_path, "registry.example/org", "1.2.3/../x", str(tmp_path))
    assert refused.returncode == 2
    assert "expected PREFIX TAG FOLDER" in refused.stderr
    assert list(tmp_path.iterdir()) == []
