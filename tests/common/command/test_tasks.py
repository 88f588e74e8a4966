"""`scaleodm submit`, `tasks`, `why`, `logs`, `tokens`: each command a process, against a real router."""

import json
import signal
from pathlib import Path

import pytest

from common.embedded.stack import Stack
from common.storage import Storage
from tests.client import Wire
from tests.common.command.running import Shell
from tests.waiting import wait_until


def test_a_folder_becomes_a_task_and_its_products_come_back(user: Shell, photos: Path, router_wire: Wire) -> None:
    """Progress goes to stderr, the answer to stdout; what is no input stays at home."""
    (photos / "gcp_list.txt").write_text("say hello from here\nsay \x1b[31mred\n")
    done = user(
        "submit", str(photos), "-o", "dsm", "--name", "[b]Feld[/b] 1", "--download", "out", "--json"
    ).went_well()
    told = done.json
    info = router_wire.info(told["uuid"])
    assert (info["name"], info["imagesCount"], info["status"]["code"]) == ("[b]Feld[/b] 1", 2, 40)
    assert {"name": "dsm", "value": True} in info["options"]
    assert "upload 100 %" in done.err
    assert "download 100 %" in done.err
    products = user.folder / told["products"]
    assert (products / "odm_orthophoto/odm_orthophoto.tif").stat().st_size > 0
    assert [each.name for each in (user.folder / "out").iterdir()] == [told["uuid"]]

    uuid = told["uuid"]
    assert f"{uuid}\tcompleted\t100 %\t[b]Feld[/b] 1\tnode-" in user("tasks", "-q", uuid[:9]).went_well().out
    shown = user("tasks", "show", uuid[:9]).went_well().out
    assert "options\tdsm=true" in shown
    assert "completed on node-" in user("why", uuid).went_well().out
    assert user("tasks", "why", uuid, "--json").went_well().json["attempts"][0]["state"] == "completed"
    assert user("tasks", "queue", uuid).went_well().out == "It does not wait: it is completed\n"
    console = user("logs", uuid).went_well().out
    assert "hello from here\n" in console
    assert "\x1b" not in console
    records = [json.loads(line) for line in user("logs", uuid, "-n", "2", "--json").went_well().out.splitlines()]
    assert [each["number"] for each in records] == [len(console.splitlines()) - 2, len(console.splitlines()) - 1]
    user("tasks", "download", uuid, "out").refused(2, "is there already")
    assert Path(user("tasks", "download", uuid, "again").went_well().out.strip()).name == uuid
    assert user("tasks", "remove", uuid).went_well().out == f"{uuid} is removed\n"
    user("tasks", "show", uuid).refused(5, f"There is no task {uuid}")


def test_a_task_that_fails_ends_the_command_that_waits_for_it(user: Shell, photos: Path) -> None:
    """With exit code 1 and the reason, also where its console is followed."""
    (photos / "gcp_list.txt").write_text("say almost\nexit 1\n")
    done = user("submit", str(photos), "--wait")
    uuid = done.out.strip()
    assert done.code == 1
    assert f"Task {uuid} failed: " in done.err
    assert f"scaleodm logs {uuid}" in done.err
    followed = user("logs", "-f", uuid)
    assert followed.code == 1
    assert "almost\n" in followed.out
    user("tasks", "wait", uuid).refused(1, f"Task {uuid} failed")
    assert user("tasks", "--state", "failed", "-q", uuid, "--json").went_well().json[0]["uuid"] == uuid


def test_a_prefix_in_s3_is_not_brought_here(user: Shell, router_wire: Wire, federation_storage: Storage) -> None:
    """Only its address is sent; an archive there is a `zipurl`."""
    _, root = router_wire.by_reference(federation_storage)
    uuid = user("submit", str(root), "--write-to", f"{root}mine/", "--json").went_well().json["uuid"]
    router_wire.ended(uuid)
    assert list(federation_storage.listing(root / "mine/"))
    assert "/none.zip" in user("submit", f"s3://staging/{uuid}/none.zip", "--wait").err


def test_options_are_checked_before_anything_is_sent(user: Shell, photos: Path) -> None:
    """Every problem at once, with what may have been meant."""
    told = user("submit", str(photos), "-o", "fast-ortophoto", "-o", "dsm=maybe", "-o", "pc-quality=hihg").refused(2)
    assert "There is no option fast-ortophoto. Did you mean fast-orthophoto" in told
    assert "dsm=maybe: " in told
    assert "expected true or false" in told
    assert "did you mean high?" in told
    assert "dsm" in {each["name"] for each in user("options", "--json").went_well().json}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nowhere", "nowhere is not there"),
        ("photos/a.jpg", "is neither a folder nor an archive"),
        (".", "did you mean"),
    ],
)
def test_a_source_that_cannot_work_is_refused_here(user: Shell, photos: Path, source: str, told: str) -> None:
    """Without a word to the router."""
    assert photos.exists()
    user.under(SCALEODM_URL="http://127.0.0.1:9").inside("submit", source).refused(2, told)


def test_a_dry_run_tells_where_it_would_go(user: Shell, photos: Path) -> None:
    """And submits nothing."""
    before = user("tasks", "-n", "1", "--json").went_well().json
    assert "It would go to node-2: " in user("submit", str(photos), "--dry-run", "--node", "node-2").went_well().out
    assert user("tasks", "-n", "1", "--json").went_well().json == before


def test_whoever_stops_waiting_learns_how_to_wait_again(user: Shell, photos: Path, router_wire: Wire) -> None:
    """Ctrl-C ends the command, with exit code 130, and not the task; then it is canceled, restarted and moved ahead."""
    gate = photos / "gate"
    (photos / "gcp_list.txt").write_text(f"until {gate}\n")
    with user.start("submit", str(photos), "--wait") as process:
        assert process.stdout is not None
        uuid = process.stdout.readline().strip()
        router_wire.running(uuid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"scaleodm tasks wait {uuid}" in err
    assert router_wire.code(uuid) == 20
    assert user("tasks", "cancel", uuid, "--json").went_well().json == [{"uuid": uuid, "success": True}]
    gate.touch()
    assert user("tasks", "restart", uuid, "-o", "dtm").went_well().out == f"{uuid} begins anew\n"
    router_wire.completed(uuid)
    assert user("tasks", "wait", uuid, "--json").went_well().json["info"]["options"][0]["name"] == "dtm"


def test_a_console_is_followed_while_it_grows(user: Shell, photos: Path, router_wire: Wire) -> None:
    """Each line once, until the task ends."""
    gate = photos / "gate"
    (photos / "gcp_list.txt").write_text(f"say before\nuntil {gate}\nsay after\n")
    uuid = user("submit", str(photos)).went_well().out.strip()
    with user.start("logs", "--follow", uuid) as process:
        assert process.stdout is not None
        seen: list[str] = []
        while "before" not in seen:
            seen.append(process.stdout.readline().rstrip("\n"))
        gate.touch()
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.splitlines().count("after") == 1
    assert [*seen, *rest.splitlines()] == [line.replace("\n", " ") for line in router_wire.output(uuid)]


def test_a_waiting_task_is_moved_ahead(admin: Shell, photos: Path, router_wire: Wire) -> None:
    """One whose only node is locked."""
    admin("nodes", "lock", "node-2").went_well()
    try:
        uuid = admin("submit", str(photos), "--node", "node-2").went_well().out.strip()
        wait_until(lambda: router_wire.code(uuid) == 10, "the task to wait")
        assert admin("tasks", "priority", uuid, "7", "--json").went_well().json["priority"] == 7
        assert admin("tasks", "-q", uuid, "--json").went_well().json[0]["priority"] == 7
        assert "node-2: does not fit" in admin("why", uuid).went_well().out
        assert admin("tasks", "queue", uuid, "--json").went_well().json["queue"]["position"] >= 1
        admin("tasks", "cancel", uuid[:9]).went_well()
    finally:
        admin("nodes", "unlock", "node-2").went_well()
    admin("tasks", "priority", uuid, "7").refused(1, "is canceled")


def test_tokens_are_made_listed_and_ended(admin: Shell, bare: Shell, federation: Stack) -> None:
    """The token alone stands on stdout, so that it can be kept by a script."""
    made = admin("tokens", "make", "lab", "--tenant", "lab", "--running", "2").went_well()
    token = made.out.strip()
    assert token not in made.err
    assert "lab\tuser\tlab\t" in admin("tokens").went_well().out
    lab = bare.under(SCALEODM_URL=federation.router_url, SCALEODM_TOKEN=token)
    assert lab("tasks", "--json").went_well().json == []
    assert admin("tokens", "end", "lab", "--json").went_well().json == {"name": "lab", "ended": True}
    admin("tokens", "end", "lab").refused(5, "There is no token lab")
    lab("tasks").refused(4, "does not know this token")


def test_a_node_is_spoken_to_as_well(bare: Shell, federation: Stack, photos: Path) -> None:
    """With what every NodeODM has; what needs a router says so."""
    token = federation.node_user_token("node-1")
    node = bare.under(SCALEODM_URL=federation.node_urls["node-1"], SCALEODM_TOKEN=token)
    uuid = node("submit", str(photos), "--wait").went_well().out.strip()
    assert node("tasks", "--json").went_well().json[0]["uuid"] == uuid
    assert "\tcompleted\t" in node("tasks").went_well().out
    node("nodes").refused(3, "This command needs a router")
    assert "node\t" in node("doctor").went_well().out
