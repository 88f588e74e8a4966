"""The contract's small print, line by line, against a node and a router alike."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.lone_node import lone_node
from tests.waiting import wait_until

REFUSED = "Invalid authentication token: token does not match."
SLOTS = {"node": 2, "kubernetes": 2, "one": 2, "router": 4, "above": 4}


@pytest.fixture(scope="module")
def finished() -> dict[str, str]:
    """By URL, a task that has ended well."""
    return {}


@pytest.fixture
def done(wire: Wire, finished: dict[str, str]) -> str:
    """A task that has ended well, and said a line in red. For tests that only look at it."""
    if wire.url not in finished:
        uuid = wire.task("say \x1b[91m[ERROR]   red\x1b[0m and plain")
        wire.completed(uuid)
        finished[wire.url] = uuid
    return finished[wire.url]


@pytest.mark.contract("1 success has no error", "1 content type", "2.13 unknown")
def test_what_succeeds_is_json_without_an_error(wire: Wire) -> None:
    """PyODM takes the mere presence of the key for a failure, and reads nothing that is not labelled JSON."""
    uuid = wire.task()
    answers = [
        wire.get("/info"),
        wire.get("/options"),
        wire.get("/task/list"),
        wire.get(f"/task/{uuid}/info"),
        wire.get(f"/task/{uuid}/info", with_output="0"),
        wire.get(f"/task/{uuid}/output"),
        wire.post("/task/cancel", data={"uuid": uuid}),
        wire.post("/task/remove", data={"uuid": uuid}),
    ]
    refusals = [wire.get(f"/task/{uuid}/info"), wire.post("/task/remove", data={"uuid": uuid})]
    for answer in (*answers, *refusals):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
    for answer in answers:
        assert not (isinstance(answer.json(), dict) and "error" in answer.json()), answer.text
    assert [answer.json()["success"] for answer in answers[-2:]] == [True, True]


@pytest.mark.contract("1 cors", "10 23")
def test_pages_of_any_origin_may_read_every_answer(wire: Wire, done: str) -> None:
    """What is refused and what is not there, too."""
    answers = [
        wire.get("/nothing"),
        wire.get("/task/list"),
        wire.http.get(wire.url + "/task/list"),
        wire.get(f"/task/{done}/info"),
        wire.get(f"/task/{done}/download/all.zip"),
        wire.get("/info", _debugUnauthorized="1"),
    ]
    assert [answer.headers.get("access-control-allow-origin") for answer in answers] == ["*"] * len(answers)


@pytest.mark.contract("1 preflight", "10 23")
def test_a_preflight_is_told_what_is_allowed(wire: Wire) -> None:
    """Without a token, on any path."""
    asked = wire.http.options(
        f"{wire.url}/task/x/info",
        headers={"Origin": "http://elsewhere", "Access-Control-Request-Headers": "set-uuid,range"},
    )
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert asked.headers["access-control-allow-headers"] == "set-uuid,range"
    assert "Access-Control-Request-Headers" in asked.headers["vary"]
    assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.contract("1 broken path")
def test_a_path_that_cannot_be_decoded_names_no_task(wire: Wire) -> None:
    """By a raw request: no client library sends such a thing."""
    answer = _raw(wire, f"GET /task/%E0%A4%A/info?token={wire.token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith("HTTP/1.1 200")
    assert "not found" in answer


@pytest.mark.contract("1 large body")
@pytest.mark.parametrize("what", ["cancel", "remove", "restart"])
def test_a_huge_form_is_refused(wire: Wire, what: str) -> None:
    """As a huge JSON body is; and one that is just below the limit is not."""
    assert wire.error(f"/task/{what}", data={"uuid": "x" * 110_000}) == "request entity too large"
    assert wire.error(f"/task/{what}", data={"uuid": "x" * 90_000}).endswith("not found")


@pytest.mark.contract("1 kind paths", "2.15 echoed")
def test_a_uuid_in_other_letters_is_another_uuid(wire: Wire, done: str) -> None:
    """Paths are read kindly, ids exactly."""
    assert wire.info(done.upper()) == {"error": f"{done.upper()} not found"}
    assert wire.get(f"/TASK/{done}/INFO/").json()["uuid"] == done


@pytest.mark.contract("1 head")
def test_head_works_on_every_path_that_can_be_got(wire: Wire, done: str) -> None:
    """Nothing comes but the head."""
    paths = ("/", "/swagger.json", "/info", "/options", "/task/list", "/auth/info")
    for path in (*paths, f"/task/{done}/info", f"/task/{done}/output"):
        answer = wire.http.head(wire.url + path, params={"token": wire.token})
        assert (path, answer.status_code, answer.content) == (path, 200, b"")
    assert wire.http.head(f"{wire.url}/task/{done}/download/all.zip?token={wire.token}").status_code == 302


@pytest.mark.contract("1 body first")
@pytest.mark.parametrize("what", ["cancel", "remove", "restart"])
def test_a_broken_body_is_told_of_before_a_wrong_token(wire: Wire, what: str) -> None:
    """And a wrong token before a missing uuid."""
    url, headers = f"{wire.url}/task/{what}?token=wrong", {"content-type": "application/json"}
    assert "not JSON" in wire.http.post(url, content=b"{", headers=headers).json()["error"]
    assert wire.http.post(url, content=b"{}", headers=headers).json() == {"error": REFUSED}


@pytest.mark.contract("1 wrong token")
def test_a_token_in_a_body_is_none(wire: Wire) -> None:
    """Only the query and the header of our own count."""
    form = {"uuid": "x", "token": wire.token}
    assert wire.http.post(f"{wire.url}/task/cancel", data=form).json() == {"error": REFUSED}
    parts = {name: (None, value) for name, value in form.items()}
    assert wire.http.post(f"{wire.url}/task/new/init", files=parts).json() == {"error": REFUSED}


@pytest.mark.contract("1 expect")
def test_who_asks_before_it_sends_is_told_to_go_on(wire: Wire) -> None:
    """libcurl waits a second for it, and ClusterODM speaks by libcurl."""
    body = "uuid=nonsense"
    head = (
        f"POST /task/cancel?token={wire.token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with _connected(wire) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100")
        connection.sendall(body.encode())
        assert "nonsense not found" in _rest(connection)


@pytest.mark.contract("2.3 queue count")
def test_the_queue_count_is_of_tasks_that_wait_or_run(wire: Wire) -> None:
    """Not of those that have ended."""

    def count() -> int:
        return int(wire.get("/info").json()["taskQueueCount"])

    wait_until(lambda: count() == 0, "what other tests have left to end")
    uuid = wire.task("sleep 60")
    wire.running(uuid)
    assert count() == 1
    wire.act("cancel", uuid)
    wait_until(lambda: count() == 0, "the canceled task to be counted no more")


@pytest.mark.contract("2.3 slots")
def test_slots_are_those_of_all_nodes_together(wire: Wire, request: pytest.FixtureRequest) -> None:
    """By which ClusterODM counts what is free."""
    assert wire.get("/info").json()["maxParallelTasks"] == SLOTS[request.node.callspec.params["wire"]]


@pytest.mark.contract("2.3 fast", "8.2 refresh")
def test_info_is_answered_in_milliseconds(wire: Wire) -> None:
    """WebODM asks with every poll of every task. Of twenty, the median; figures are the bench's."""
    took = sorted(wire.get("/info").elapsed.total_seconds() for _ in range(20))
    assert took[10] < 0.5


@pytest.mark.contract("2.4 types", "10 15")
def test_options_are_of_five_types_that_clients_can_show(wire: Wire) -> None:
    """ClusterODM checks values by these types and domains itself (contract 8.4)."""
    options = {option["name"]: option for option in wire.get("/options").json()}
    assert {option["type"] for option in options.values()} == {"int", "float", "string", "bool", "enum"}
    for option in options.values():
        domain, is_enum = option["domain"], option["type"] == "enum"
        assert isinstance(domain, list) is is_enum, option
        assert all(isinstance(each, str) for each in domain)
        assert option["value"] in domain or not is_enum, option
        assert domain == "" or option["type"] != "bool", option
        assert isinstance(option["help"], str)
    assert (options["sm-cluster"]["value"], options["dsm"]["value"]) == ("None", "false")
    assert options["mesh-octree-depth"]["domain"] == "integer: 1 <= x <= 14"
    assert options["rerun-from"]["domain"][-1] == "odm_postprocess"


@pytest.mark.contract("2.6 unknown")
def test_an_open_upload_is_no_task_yet(wire: Wire) -> None:
    """To be asked for, or acted on."""
    uuid = wire.init()
    assert wire.info(uuid) == {"error": f"{uuid} not found"}
    assert wire.output(uuid) == {"error": f"{uuid} not found"}
    assert wire.act("cancel", uuid) == {"success": False, "error": f"{uuid} not found"}


@pytest.mark.contract("2.6 images", "3.5 commit")
def test_right_after_commit_the_images_are_counted(wire: Wire) -> None:
    """And nothing of a run is told yet that has not begun."""
    uuid = wire.task("sleep 60")
    info = wire.info(uuid)
    assert info["imagesCount"] >= 2
    assert info["status"]["code"] == 20
    wire.act("remove", uuid)


@pytest.mark.contract("2.7 cleaned")
def test_the_console_is_plain_text(wire: Wire, done: str) -> None:
    """Without colours."""
    assert "[ERROR]   red and plain" in wire.output(done)


@pytest.mark.contract("2.8 archive", "10 19")
def test_the_archive_is_an_attachment_of_known_length(wire: Wire, done: str) -> None:
    """And as it lies there: a compressed answer would have another length than PyODM counts on."""
    link = wire.get(f"/task/{done}/download/all.zip").headers["location"]
    answer = wire.http.get(link, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-type"] in ("application/zip", "application/octet-stream")
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "response-content-disposition=attachment" in link


@pytest.mark.contract("2.8 after cancel")
def test_the_archive_of_a_finished_task_outlives_its_cancel(wire: Wire) -> None:
    """A late cancel takes nothing away from whoever waits for the products."""
    uuid = wire.task()
    wire.completed(uuid)
    assert wire.act("cancel", uuid) == {"success": True}
    answer = wire.get(f"/task/{uuid}/download/all.zip")
    assert wire.http.get(answer.headers["location"]).content.startswith(b"PK")


@pytest.mark.contract("2.9 fields", "2.9 other bodies")
@pytest.mark.parametrize("kind", ["json", "data"])
def test_init_reads_other_bodies_too(wire: Wire, kind: str) -> None:
    """NodeODM takes them, and loses every field."""
    content: dict[str, Any] = {kind: {"name": "by another way", "skipPostProcessing": "true"}}
    uuid = wire.post("/task/new/init", **content).json()["uuid"]
    wire.upload(uuid, ("a.jpg", JPEG))
    wire.commit(uuid)
    info = wire.info(uuid)
    assert (info["name"], info["options"]) == ("by another way", [])
    wire.act("remove", uuid)


@pytest.mark.contract("2.9 skip post-processing", "4.4 skipped", "2.6 options", "10 10")
@pytest.mark.parametrize(("said", "skips"), [("true", True), ("True", False), ("1", False), ("", False)])
def test_only_true_is_true(wire: Wire, said: str, skips: bool) -> None:
    """Contract 2.9."""
    uuid = wire.task(skipPostProcessing=said)
    assert (wire.info(uuid)["options"] == []) is skips
    wire.act("remove", uuid)


@pytest.mark.contract("2.9 date", "10 7")
def test_a_client_may_say_when_the_task_was_made(wire: Wire) -> None:
    """ClusterODM does."""
    said, unreadable = wire.task(dateCreated="1700000000123"), wire.task(dateCreated="soon")
    assert wire.info(said)["dateCreated"] == 1_700_000_000_123
    assert abs(wire.info(unreadable)["dateCreated"] - time.time() * 1000) < 60_000
    for uuid in (said, unreadable):
        wire.act("remove", uuid)


@pytest.mark.contract("2.9 invalid options")
def test_an_init_with_wrong_options_opens_nothing(wire: Wire) -> None:
    """Its answer tells them, and there is no upload under that uuid."""
    uuid = "1B9D6BCD-BBFD-4B2D-9B5D-AB8DFBBD4BED"
    fields = {"options": (None, '[{"name": "crop", "value": "x"}]')}
    answer = wire.post("/task/new/init", files=fields, headers={"set-uuid": uuid}).json()
    assert "crop" in answer["error"]
    assert wire.upload(uuid, ("a.jpg", JPEG)) == {"error": "Invalid uuid (not found)"}


@pytest.mark.contract("2.10 success", "2.10 parallel", "8.4 many files")
def test_many_connections_upload_at_once(wire: Wire) -> None:
    """Twenty, each with two files and a text field that nobody reads."""
    uuid = wire.init()

    def send(number: int) -> httpx.Response:
        files: list[Any] = [("note", (None, "x"))]
        files += [("images", (f"{number}-{each}.jpg", JPEG + bytes([number, each]))) for each in range(2)]
        return wire.post(f"/task/new/upload/{uuid}", files=files)

    with ThreadPoolExecutor(20) as pool:
        assert {answer.text for answer in pool.map(send, range(20))} == {'{"success":true}'}
    wire.commit(uuid)
    assert wire.ended(uuid)["imagesCount"] == 40


@pytest.mark.contract("2.10 twice", "2.10 broken off")
def test_a_file_that_breaks_off_is_not_there_and_comes_whole_the_next_time(
    wire: Wire, federation_storage: Storage
) -> None:
    """NodeODM keeps the half, and the next try beside it under another name."""
    uuid = wire.init()
    head = '--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\nhalf of'
    with _connected(wire) as connection:
        connection.sendall(
            (
                f"POST /task/new/upload/{uuid}?token={wire.token} HTTP/1.1\r\nHost: x\r\n"
                f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n{head}"
            ).encode()
        )
    assert wire.upload(uuid, ("a.jpg", JPEG)) == {"success": True}
    prefix = Reference.parse(f"s3://staging/{uuid}/images/")
    stored = {
        each.reference.name: federation_storage.read(each.reference) for each in federation_storage.listing(prefix)
    }
    assert stored == {"a.jpg": JPEG}


@pytest.mark.contract("2.11 body", "8.4 commit")
@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/json", "text/plain"])
def test_nobody_reads_the_body_of_a_commit(wire: Wire, content_type: str) -> None:
    """ClusterODM sends an empty one and calls it multipart."""
    uuid = wire.init()
    wire.upload(uuid, ("a.jpg", JPEG))
    for body in (b"", b"{broken"):
        answer = wire.post(f"/task/new/commit/{uuid}", content=body, headers={"content-type": content_type})
        assert answer.json() == {"uuid": uuid}
    wire.act("remove", uuid)


@pytest.mark.contract("2.13 forms", "8.4 admin", "10 4", "10 6")
def test_json_is_as_good_as_a_form(wire: Wire) -> None:
    """With options as text or as a list."""
    uuid = wire.task("exit 1")
    wire.ended(uuid)
    for options in ([{"name": "dsm", "value": True}], '[{"name": "dsm", "value": "true"}]'):
        order = {"uuid": uuid, "options": options}
        assert wire.post("/task/restart", json=order).json() == {"success": True}
        assert wire.info(uuid)["options"][0] == {"name": "dsm", "value": True}
        assert wire.post("/task/cancel", json={"uuid": uuid}).json() == {"success": True}
    for what in ("cancel", "remove"):
        assert wire.post(f"/task/{what}", json={"uuid": uuid}).json() == {"success": True}


@pytest.mark.contract("3.2 any text", "10 22")
@pytest.mark.parametrize("name", ["Поле № 5", "حقل", "🚁 <b>'\"; drop --", "a" * 1000])
def test_a_name_may_be_any_text(wire: Wire, name: str) -> None:
    """And comes back as it was."""
    uuid = wire.task(name=name)
    assert wire.info(uuid)["name"] == name
    wire.act("remove", uuid)


@pytest.mark.contract("6.2 source", "10 12")
def test_progress_is_that_of_the_last_stage_however_fast_it_came(wire: Wire) -> None:
    """The stand-in runs through ten stages at once, and then says nothing for a minute."""
    uuid = wire.task("sleep 60")
    wait_until(lambda: wire.info(uuid)["progress"] == pytest.approx(81), "90 % of 90 %")
    wire.act("remove", uuid)


@pytest.mark.contract("3.4 frozen", "3.4 hundred", "2.6 error message", "8.5 poll")
def test_a_failed_task_stands_still_at_a_hundred(wire: Wire) -> None:
    """With its reason, and the time that it took."""
    uuid = wire.task("say [ERROR]   too few features\nexit 1")
    info = wire.ended(uuid)
    assert info["status"]["code"] == 30
    assert info["status"]["errorMessage"].startswith("Cannot process dataset")
    assert info["progress"] == 100
    assert info["processingTime"] >= 0
    assert wire.info(uuid) == info


@pytest.mark.contract("3.5 restart", "3.5 restart a canceled task", "10 5")
def test_a_failed_task_begins_anew_under_its_uuid(wire: Wire) -> None:
    """Nothing of the first run is left in its console."""
    uuid = wire.task("say once\nexit 1")
    first = wire.ended(uuid)
    assert wire.act("restart", uuid) == {"success": True}
    again = wire.info(uuid)
    assert again["dateCreated"] > first["dateCreated"]
    assert "errorMessage" not in again["status"] or again["status"]["code"] == 30
    assert wire.ended(uuid)["status"]["code"] == 30
    assert wire.output(uuid).count("once") == 1


@pytest.mark.contract("6.1 arguments", "6.1 no shell", "7.2 numeric options", "7.2 quotes", "10 16")
def test_options_reach_the_engine_as_they_were_given(wire: Wire, federation_storage: Storage) -> None:
    """Numbers, JSON with quotes, and what a shell would take for its own."""
    shell = "$(touch /tmp/oops) $HOME `id` 'x' \"y\" * ; &"
    cameras = json.dumps({"a camera": shell})
    given: list[dict[str, Any]] = [
        {"name": "cameras", "value": cameras},
        {"name": "primary-band", "value": shell},
        {"name": "radiometric-calibration", "value": "camera+sun"},
        {"name": "mesh-size", "value": 12345},
        {"name": "crop", "value": "0.5"},
        {"name": "dsm", "value": True},
        {"name": "dtm", "value": False},
    ]
    uuid = wire.task(options=given, skipPostProcessing="true")
    wire.completed(uuid)
    stats = json.loads(federation_storage.read(Reference.parse(f"s3://staging/{uuid}/output/odm_report/stats.json")))
    arguments = stats["arguments"]
    assert f"--primary-band={shell}" in arguments
    (told,) = (each for each in arguments if each.startswith("--cameras="))
    assert told == f"--cameras={cameras}" or told.endswith("cameras.json"), "inline, or as a file with that in it"
    assert {"--radiometric-calibration=camera+sun", "--mesh-size=12345", "--crop=0.5"} <= set(arguments)
    assert "--dsm" in arguments
    assert "--dtm" not in arguments


@pytest.fixture(scope="module")
def lone(federation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a node that asks for no token, and takes three images at most."""
    settings = {"SCALEODM_NODE_AUTH": "off", "SCALEODM_NODE_MAX_IMAGES": "3"}
    with lone_node(tmp_path_factory.mktemp("lone-node"), federation.storage_environment() | settings) as node:
        yield node.url


@pytest.mark.contract("1 no token needed", "8.4 commit")
@pytest.mark.parametrize("token", ["", "?token=", "?token=undefined", "?token=another-nodes"])
def test_where_no_token_is_needed_any_is_let_pass(lone: str, http: httpx.Client, token: str) -> None:
    """ClusterODM sends the word `undefined`, and PyODM at times the token of another node."""
    assert "version" in http.get(f"{lone}/info{token}").json()
    answer = http.post(f"{lone}/task/new/init{token}", files={"name": (None, "x")}).json()
    assert "uuid" in answer


@pytest.mark.contract("2.3 max images", "2.12 too many", "2.11 later errors", "5 limit", "7.1 max images")
def test_a_node_that_takes_few_images_says_so(lone: str, http: httpx.Client) -> None:
    """In `/info`, and to whoever sends more: at once in a single request, after the commit in several."""
    wire = Wire(lone, "", http)
    assert wire.get("/info").json()["maxImages"] == 3
    files = [(f"{number}.jpg", JPEG + bytes([number])) for number in range(4)]
    uuid = wire.init()
    wire.upload(uuid, *files)
    assert wire.commit(uuid) == {"uuid": uuid}
    info = wire.ended(uuid)
    told = "4 images uploaded, but this node can only process up to 3."
    assert (info["status"]["code"], told in info["status"]["errorMessage"]) == (30, True), info
    answer = wire.post("/task/new", files=[("images", file) for file in files]).json()
    at_once = answer["error"] if "error" in answer else wire.ended(answer["uuid"])["status"]["errorMessage"]
    assert told in at_once


@pytest.mark.contract("1 no upload limit")
def test_a_large_upload_takes_little_memory(federation: Stack, router_wire: Wire) -> None:
    """After one of 50 MiB has shown what an upload takes, one of 200 MiB takes little more: a heap has gaps."""
    router = psutil.Process(federation.pid_of("router"))
    uuid = router_wire.init()
    assert router_wire.upload(uuid, ("first.tif", os.urandom(50 * 2**20))) == {"success": True}
    before = router.memory_info().rss
    assert router_wire.upload(uuid, ("large.tif", os.urandom(200 * 2**20))) == {"success": True}
    assert router.memory_info().rss - before < 100 * 2**20


def _connected(wire: Wire) -> socket.socket:
    parts = urlsplit(wire.url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10)


def _rest(connection: socket.socket) -> str:
    received: Callable[[], bytes] = lambda: connection.recv(65536)  # noqa: E731 - for iter
    return b"".join(iter(received, b"")).decode("utf-8", "replace")


def _raw(wire: Wire, request: str) -> str:
    with _connected(wire) as connection:
        connection.sendall(request.encode())
        return _rest(connection)
