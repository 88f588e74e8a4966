"""How engines are called, and what the embedded one makes of a project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.embedded.flight import render_flight
from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.options import Setting
from node.engines import argv
from node.engines.known import EngineUnknown, engine_here
from node.engines.odm import odm_engine
from node.engines.orthomosaic import ORTHOMOSAIC
from node.engines.orthomosaic_run import parser


@pytest.mark.contract("6.1 no shell", "6.1 arguments")
def test_options_become_an_argument_list_that_no_shell_sees(tmp_path: Path) -> None:
    """Contract 6.1, 7.2: true is a bare flag, false nothing, and a value may be anything."""
    settings = [
        Setting("dsm", True),
        Setting("dtm", False),
        Setting("crop", -1.5),
        Setting("boundary", '{"a": "$(x)"}'),
    ]
    assert argv(["run"], tmp_path, "u", settings) == [
        "run",
        "--dsm",
        "--crop=-1.5",
        '--boundary={"a": "$(x)"}',
        "--project-path",
        str(tmp_path),
        "u",
    ]


def test_the_embedded_engine_offers_only_what_it_honours() -> None:
    """Each of its options is ODM's, and its command line takes every one."""
    known = {option.name: option for option in ODM_OPTIONS}
    settings = [Setting(option.name, True if option.type == "bool" else option.value) for option in ORTHOMOSAIC.options]
    assert all(option.type == known[option.name].type for option in ORTHOMOSAIC.options)
    parser().parse_args(argv([], Path("/p"), "u", settings))
    assert "tiles" not in {option.name for option in ORTHOMOSAIC.options}
    assert len(ORTHOMOSAIC.version) <= 32


def test_odm_is_known_by_the_command_that_runs_it(tmp_path: Path) -> None:
    """Its version stands beside it (contract 2.3)."""
    (tmp_path / "VERSION").write_text("3.6.0\nmore\n")
    engine = odm_engine(f"bash {tmp_path}/run.sh")
    assert (engine.name, engine.version, len(engine.options)) == ("odm", "3.6.0", 82)
    assert odm_engine("/nowhere/run.sh").version == "?"


def test_odm_on_this_machine_needs_its_command() -> None:
    """Told with the setting's name."""
    with pytest.raises(EngineUnknown, match="ENGINE_COMMAND"):
        engine_here("odm", None)


WITHOUT_IT = """
import importlib.metadata as metadata
told = metadata.version
def version(name):
    if name == "pyorthomosaic":
        raise metadata.PackageNotFoundError(name)
    return told(name)
metadata.version = version
from node.engines.known import EngineUnknown, engine_here
print(engine_here("odm", "/code/run.sh").name)
try:
    engine_here(None, None)
except EngineUnknown as unknown:
    print(unknown)
"""


def test_a_node_needs_the_embedded_engine_only_to_run_it() -> None:
    """As where scaleodm was installed without the extra `engine`."""
    told = subprocess.run([sys.executable, "-c", WITHOUT_IT], capture_output=True, text=True, check=True).stdout
    name, refusal = told.splitlines()
    assert name == "odm"
    assert "pyorthomosaic is not installed: install scaleodm[engine]" in refusal


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The engine's program, as the node calls it."""
    return subprocess.run(
        [sys.executable, "-m", "node.engines.orthomosaic_run", *arguments], capture_output=True, text=True, check=False
    )


def test_wrong_arguments_and_missing_projects_have_odms_exit_codes(tmp_path: Path) -> None:
    """Contract 9.4."""
    assert run("--no-such-option", "--project-path", str(tmp_path), "u").returncode == 2
    assert run("--dem-resolution=x", "--project-path", str(tmp_path), "u").returncode == 2
    missing = run("--project-path", str(tmp_path), "u")
    assert missing.returncode == 1
    assert "[ERROR]   The project" in missing.stdout


def test_a_project_without_usable_images_says_what_to_do(tmp_path: Path) -> None:
    """No traceback, exit code 1, and a log.json that says why."""
    images = tmp_path / "u" / "images"
    images.mkdir(parents=True)
    (images / "text.jpg").write_text("hello")
    ended = run("--project-path", str(tmp_path), "u")
    assert ended.returncode == 1
    assert "[WARNING] text.jpg seems corrupted and will not be used" in ended.stdout
    assert "[ERROR]   Not enough usable images: 0 of 1" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert json.loads((tmp_path / "u/log.json").read_text())["success"] is False


def test_a_flight_becomes_odms_result_tree(tmp_path: Path) -> None:
    """Contract 9.3, 9.5: stages in ODM's order, photo records, cameras, no working files left."""
    render_flight(tmp_path / "u" / "images", rows=2, columns=3, width=700)
    ended = run("--fast-orthophoto", "--project-path", str(tmp_path), "u")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    running = [line.split()[2] for line in ended.stdout.splitlines() if " Running " in line and line.endswith("stage")]
    log = json.loads((tmp_path / "u/log.json").read_text())
    assert running == [stage["name"] for stage in log["stages"]]
    assert (len(running), running[0], running[-1]) == (13, "dataset", "odm_postprocess")
    photos = json.loads((tmp_path / "u/images.json").read_text())
    assert len(photos) == 6
    assert photos[0]["latitude"] == pytest.approx(46.842, abs=0.01)
    tree = {str(path.relative_to(tmp_path / "u")) for path in (tmp_path / "u").rglob("*") if path.is_file()}
    assert {path for path in tree if not path.startswith("images/")} == {
        "cameras.json",
        "images.json",
        "log.json",
        "odm_orthophoto/odm_orthophoto.tif",
        "odm_report/shots.geojson",
        "odm_report/stats.json",
        "options.json",
    }
