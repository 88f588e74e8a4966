"""`scaleodm events`, a process, against a real router."""

from tests.common.command.running import Shell


def test_what_was_done_is_listed_with_who_did_it(admin: Shell, user: Shell) -> None:
    """For programs with tabs and as JSON; a user's token does not open it."""
    admin("nodes", "lock", "node-2").went_well()
    admin("nodes", "unlock", "node-2").went_well()
    lines = admin("events", "--subject", "node-2", "--action", "node", "-n", "2").went_well().out.splitlines()
    assert lines[0].split("\t") == ["when", "who", "action", "what"]
    assert [line.split("\t")[1:] for line in lines[1:]] == [
        ["admin first admin", "node.unlocked", "Node node-2 is unlocked."],
        ["admin first admin", "node.locked", "Node node-2 is locked."],
    ]
    (event,) = admin("events", "--actor", "router", "--action", "router", "-n", "1", "--json").went_well().json
    assert event["action"] == "router.leads"
    user("events").refused(4, "This is a user token; here a token of kind admin is needed")


def test_an_action_that_there_is_not_is_told_with_those_that_are(admin: Shell) -> None:
    """And where there is nothing, that is said beside the answer."""
    admin("events", "--action", "nodes").refused(1, "expected the beginning of one of task.canceled")
    empty = admin("events", "--text", "nobody ever said this").went_well()
    assert empty.out.splitlines() == ["when\twho\taction\twhat"]
    assert "No such events." in empty.err
