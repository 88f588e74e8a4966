"""`scaleodm nodes`, each command a process, against a real router."""

import pytest

from common.embedded.children import free_port
from tests.common.command.running import Shell


def test_nodes_are_listed_for_programs_with_tabs_and_as_json(admin: Shell) -> None:
    """The group alone is the list."""
    lines = admin("nodes").went_well().out.splitlines()
    assert lines[0].split("\t")[:4] == ["node", "state", "busy", "engine"]
    assert [line.split("\t")[:2] for line in lines[1:3]] == [["node-1", "healthy"], ["node-2", "healthy"]]
    listed = admin("nodes", "list", "--json").went_well().json
    assert {each["name"] for each in listed} >= {"node-1", "node-2"}


def test_one_node_is_shown_and_one_that_is_not_there_is_told_with_those_that_are(admin: Shell) -> None:
    """Exit code 5."""
    assert admin("nodes", "show", "node-1", "--json").went_well().json["name"] == "node-1"
    admin("nodes", "show", "oslo").refused(5, "There is no node oslo; the nodes are: node-1, node-2")
    admin("nodes", "drain", "oslo").refused(5, "There is no node oslo")


@pytest.mark.parametrize(("there", "state", "back"), [("drain", "draining", "undrain"), ("lock", "locked", "unlock")])
def test_a_node_is_drained_or_locked_and_takes_work_again(admin: Shell, there: str, state: str, back: str) -> None:
    """And the list says so in between."""
    try:
        assert "node-2 " in admin("nodes", there, "node-2").went_well().out
        assert f"node-2\t{state}\t" in admin("nodes").went_well().out
    finally:
        (node,) = admin("nodes", back, "node-2", "--json").went_well().json
    assert not node["draining"]
    assert not node["locked"]


def test_a_foreign_node_is_added_only_where_there_is_one_and_removed(admin: Shell, user: Shell) -> None:
    """What is wrong is the router's own sentence."""
    admin("nodes", "add", "far", f"http://127.0.0.1:{free_port()}").refused(1, "Nothing listens on port")
    admin("nodes", "remove", "far").refused(5, "There is no node far")
    user("nodes").refused(4, "This is a user token; here a token of kind admin is needed")


def test_trust_ends_a_quarantine(admin: Shell) -> None:
    """Also where there is none."""
    assert admin("nodes", "trust", "node-1").went_well().out == "node-1 is trusted\n"
