"""What is said of commands is what they are: help, the document, completion."""

import re

import pytest
import typer
from typer.testing import CliRunner

from common.command.app import app
from common.command.endings import MEANINGS, Exit
from tests.common.command.document import DOCUMENT, commands, options, written
from tests.common.command.running import Shell


def test_the_document_is_what_the_commands_say() -> None:
    """`python -m tests.common.command.document` writes it anew."""
    assert DOCUMENT.read_text() == written(DOCUMENT.read_text())


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_explains_itself(name: str) -> None:
    """And every option of it that the document names; in lines that fit a terminal."""
    answer = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="scaleodm", terminal_width=80)
    assert answer.exit_code == 0
    told = answer.output
    assert told.startswith(f"Usage: scaleodm {name} ")
    document = DOCUMENT.read_text()
    command = dict(commands())[name]
    for option in options(command):
        assert all(each in told for each in option.opts)
        assert option.help
        assert f"`{', '.join(option.opts)}" in document
    assert max(len(line) for line in told.splitlines()) <= 80


def test_every_exit_code_has_a_meaning_in_the_document() -> None:
    """No more and no fewer."""
    assert set(MEANINGS) == set(Exit)
    documented = {int(code) for code in re.findall(r"^\| (\d+) \| ", DOCUMENT.read_text(), re.MULTILINE)}
    assert documented == {int(code) for code in Exit}


def test_the_commands_in_the_prose_exist() -> None:
    """Of this document, and of the errors that advise one."""
    groups = {name.partition(" ")[0] for name, _ in commands()}
    named = re.findall(r"(?:^|[`( ])scaleodm ([a-z]+)", DOCUMENT.read_text(), re.MULTILINE)
    assert named
    assert set(named) <= groups


def test_help_of_the_whole_names_every_command_and_costs_nothing(bare: Shell) -> None:
    """As a process; without a word it is the help as well."""
    told = bare("--help").went_well().out
    assert all(f"\n  {name.partition(' ')[0]} " in told for name, _ in commands())
    assert bare("--version").went_well().out.startswith("scaleodm 0.")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["nodes", "--frobnicate"], "No such option"),
        (["tasks", "show"], "Missing argument 'TASK'"),
        (["tokens", "make", "x", "--kind", "king"], "'king' is not one of"),
    ],
)
def test_what_cannot_be_understood_is_exit_code_2(bare: Shell, arguments: list[str], told: str) -> None:
    """And says where help is."""
    bare.inside(*arguments).refused(2, told, "--help")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(bare: Shell, shell: str) -> None:
    """The script is printed; what a shell asks through it is answered."""
    script = bare.under(_SCALEODM_COMPLETE=f"source_{shell}")().went_well().out
    assert "_SCALEODM_COMPLETE" in script
    if shell == "bash":
        asked = bare.under(_SCALEODM_COMPLETE="complete_bash", COMP_WORDS="scaleodm nodes dr", COMP_CWORD="2")
        assert asked().went_well().out.split() == ["drain"]


def test_without_the_extra_it_says_what_to_install(bare: Shell) -> None:
    """As in an image that has no use for it."""
    hidden = bare.folder / "typer.py"
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    bare.under(PYTHONPATH=str(bare.folder))("nodes").refused(2, "pip install 'scaleodm[cli]'")


def test_typer_is_asked_for_plain_help() -> None:
    """Boxes would neither fit a narrow terminal nor a pipe."""
    group = typer.main.get_command(app)
    assert "╭" not in CliRunner().invoke(app, ["tasks", "--help"]).output
    assert group.name == "scaleodm"
