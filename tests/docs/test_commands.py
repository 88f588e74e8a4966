"""Every command and every piece of code in the documents runs, or says in the page's source why it is not run here.

`<!-- not run: REASON -->` right before a block: it is looked at only (`tests.docs.commands`): its commands, options,
targets, modules and files are there, and Python can be compiled. `<!-- goes on until: TEXT -->`: a program that goes on
until it is stopped; it is started, and must say TEXT. Everything else is run, page by page, in one federation.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyodm import Node

from common.embedded.flight import render_flight
from common.embedded.stack import Stack
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.docs.commands import Command, commands_in, fault, outside
from tests.docs.desk import desk, fill_bucket
from tests.docs.pages import ROOT, SHELL, Block, blocks, documents, inline

RUNNABLE = (*SHELL, "python")
OF_COMMANDS = [block for page in documents() for block in blocks(page) if block.language in RUNNABLE]
PAGES = sorted({block.page for block in OF_COMMANDS if not block.not_run}, key=documents().index)


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's images."""
    folder = tmp_path_factory.mktemp("docs") / "flight"
    render_flight(folder)
    return folder


@pytest.fixture(scope="module")
def stack(flight: Path) -> Iterator[Stack]:
    """What `scaleodm up` starts, and the flight that the documents have in S3."""
    with Stack(flight.with_name("data"), node_settings=ENGINE, router_settings=PATIENT_ROUTER) as stack:
        fill_bucket(stack.storage(), flight)
        yield stack


@pytest.fixture(scope="module")
def ended(stack: Stack, flight: Path) -> str:
    """A task that documents can speak of."""
    node = Node.from_url(f"{stack.router_url}?token={stack.user_token}")
    task = node.create_task([str(path) for path in sorted(flight.iterdir())[:3]], {})
    task.wait_for_completion(interval=0.2)
    return str(task.uuid)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_runs(page: Path, stack: Stack, flight: Path, ended: str, tmp_path: Path) -> None:
    """In the order of the page, in one folder, as a reader would."""
    with desk(tmp_path / "desk", stack, flight, ended) as reader:
        for block in OF_COMMANDS:
            if block.page == page and not block.not_run:
                reader.do(block)


def test_what_a_further_node_is_told_only_its_owner_reads(stack: Stack) -> None:
    """It holds the keys of S3 and what opens joining; a shell reads it back as it is."""
    assert stack.join_file.stat().st_mode & 0o077 == 0
    read = f"set -a; . {stack.join_file}; env -0"
    told = subprocess.run(["env", "-i", "sh", "-c", read], capture_output=True, text=True, check=True).stdout
    found = dict(each.split("=", 1) for each in told.split("\0") if each)
    assert found["SCALEODM_NODE_JOIN_TOKEN"] == stack.node_token
    assert stack.storage_environment().items() <= found.items()


@pytest.mark.parametrize("block", OF_COMMANDS, ids=str)
def test_what_a_block_names_is_there(block: Block) -> None:
    """Also where it is not run: commands, options, targets, files, modules; and Python can be compiled."""
    if block.language == "python":
        compile(block.text, str(block), "exec")
    else:
        commands = commands_in(block.text)
        assert commands, f"{block}: no command in it"
        assert [told for each in commands if (told := fault(each))] == []


@pytest.mark.parametrize("block", [each for each in OF_COMMANDS if each.not_run], ids=str)
def test_a_reason_not_to_run_a_block_is_one(block: Block) -> None:
    """In words; and a test that is said to run it instead is there."""
    assert len(block.not_run.split()) >= 3, f"{block}: say why"
    named = re.findall(r"\btests/[\w/]+\.py\b", block.not_run)
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_prose_are_there(page: Path) -> None:
    """What stands between backticks and begins with a program of ours."""
    spans = [each for each in inline(page) if re.match(r"(\S*/)?(scaleodm|make|python3? -m|pip install) ?", each)]
    commands = [each for span in spans if "…" not in span for each in commands_in(span)]
    told = [wrong for each in commands if len(each.words) > 1 and (wrong := fault(each))]
    assert [each for each in told if "arguments" not in each] == []


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("scaleodm nodez", "there is no `scaleodm nodez`"),
        ("A=b scaleodm tasks frobnicate", "there is no `scaleodm tasks frobnicate`"),
        ("cd x && scaleodm submit photos --fast", "`scaleodm submit` has no option --fast"),
        ("uuid=$(scaleodm submit)", "`scaleodm submit` takes 1 to 1 arguments, and gets 0"),
        ("make demo IMAGE=x", "the Makefile has no IMAGE"),
        ("make coffee", "the Makefile has no coffee"),
        ("python -m tests.nothing", "there is no module tests.nothing"),
        ("kubectl apply -k deploy/kubernetes/nowhere", "there is no deploy/kubernetes/nowhere"),
        ("docker compose -f compose.yaml up", "there is no compose.yaml"),
        ("pip install 'scaleodm[cli,all]'", "there are no extras ['all']"),
        ("pytest tests/test_nothing.py::test_x", "there is no tests/test_nothing.py"),
    ],
)
def test_what_is_not_there_is_found(script: str, told: str) -> None:
    """The looking itself."""
    assert [fault(each) for each in commands_in(script) if fault(each)] == [told]


def test_scripts_are_taken_apart() -> None:
    """Comments, pipes, continuations, assignments, quotations over lines, and what stands in here-documents."""
    script = "A=1 x 'a;b' \\\n  c | sudo y -f z  # no; w\nB=$(v u)\ncat <<END\nscaleodm nothing\nEND\nt 'over\nlines'\n"
    assert commands_in(script) == [
        Command(("x", "a;b", "c")),
        Command(("y", "-f", "z")),
        Command(("v", "u")),
        Command(("cat",)),
        Command(("t", "over\nlines")),
    ]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("cd x && kubectl apply -f y", ["kubectl"]),
        ("sudo -n true; A=1 docker compose up", ["docker", "sudo"]),
        ("scaleodm nodes | grep make", []),
    ],
)
def test_what_reaches_beyond_a_folder_is_told(script: str, told: list[str]) -> None:
    """A block with it is never run by a test, not even by mistake."""
    assert outside(script) == told
