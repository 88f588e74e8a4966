"""What holds for every answer, against router and node alike (contract 1, 2)."""

import json
from typing import Any

import pytest

from tests.client import JPEG, Wire


@pytest.mark.contract("2.3 fields", "2.3 version", "8.2 refresh", "10 14")
def test_info_says_who_we_are(wire: Wire) -> None:
    """Contract 2.3: three integers as version, integers for counts, null for no limit."""
    info = wire.get("/info").json()
    assert set(info) == {
        "version",
        "taskQueueCount",
        "totalMemory",
        "availableMemory",
        "cpuCores",
        "maxImages",
        "maxParallelTasks",
        "engine",
        "engineVersion",
    }
    assert tuple(map(int, info["version"].split("."))) >= (2, 1, 2)
    assert isinstance(info["taskQueueCount"], int)
    assert info["maxParallelTasks"] >= 2
    assert info["maxImages"] is None
    assert len(info["engineVersion"]) <= 32


@pytest.mark.contract("2.4 keys", "2.4 rerun-from", "2.4 engine", "8.2 rerun-from", "10 15")
def test_options_have_exactly_five_keys(wire: Wire) -> None:
    """Contract 2.4: PyODM fails on a sixth."""
    options = wire.get("/options").json()
    assert len(options) == 82
    assert {frozenset(option) for option in options} == {frozenset({"name", "type", "value", "domain", "help"})}
    assert all(isinstance(option["value"], str) for option in options)
    rerun = next(option for option in options if option["name"] == "rerun-from")
    assert rerun["domain"][:2] == ["", "dataset"]


@pytest.mark.contract("2.1 page", "1 open paths")
def test_the_front_page_says_what_stands_here(wire: Wire) -> None:
    """Contract 2.1: HTML, no token."""
    answer = wire.http.get(wire.url + "/")
    assert answer.headers["content-type"].lower().startswith("text/html")
    assert "NodeODM API" in answer.text


@pytest.mark.contract("2.2 document", "1 open paths", "10 1")
def test_the_api_describes_itself(wire: Wire) -> None:
    """Contract 2.2: Swagger 2.0 with NodeODM's sixteen paths and ours, no token; every path of it is answered."""
    document = wire.http.get(wire.url + "/swagger.json").json()
    assert (document["swagger"], document["basePath"]) == ("2.0", "/")
    assert {"Error", "Response"} <= set(document["definitions"])
    assert len(document["paths"]) >= 16
    for path, operations in document["paths"].items():
        for method in operations:
            assert wire.http.request(method, wire.url + path).status_code == 200, path


@pytest.mark.contract("1 kind paths", "10 23")
@pytest.mark.parametrize("path", ["/INFO", "/info/", "/Task/List/", "/task/LIST"])
def test_paths_are_read_kindly(wire: Wire, path: str) -> None:
    """Contract 1.6."""
    assert wire.get(path).status_code == 200


@pytest.mark.contract("1 head")
def test_head_works_where_get_does(wire: Wire) -> None:
    """Contract 1.6."""
    answer = wire.http.head(wire.url + "/info", params={"token": wire.token})
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.contract("1 unrouted")
@pytest.mark.parametrize(("method", "path"), [("GET", "/task/new"), ("PUT", "/task/list"), ("GET", "/nothing")])
def test_unrouted_paths_are_a_page(wire: Wire, method: str, path: str) -> None:
    """Contract 1.1."""
    answer = wire.http.request(method, wire.url + path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert f"Cannot {method} {path}" in answer.text


@pytest.mark.contract("1 cors", "1 preflight")
def test_browsers_of_other_origins_are_let_in(wire: Wire) -> None:
    """Contract 1.5."""
    assert wire.get("/info").headers["access-control-allow-origin"] == "*"
    asked = wire.http.options(wire.url + "/task/new", headers={"Access-Control-Request-Headers": "set-uuid"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-headers"] == "set-uuid"


@pytest.mark.contract("1 wrong token", "1 errors are 200", "8.2 conformance", "10 3", "10 18")
@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("path", ["/info", "/options", "/task/list", "/task/x/info", "/task/x/output"])
def test_a_wrong_token_is_refused_in_nodeodms_words(wire: Wire, path: str, token: str) -> None:
    """Contract 1.7."""
    answer = wire.http.get(wire.url + path, params={"token": token})
    assert answer.status_code == 200
    assert answer.json() == {"error": "Invalid authentication token: token does not match."}


def test_a_wrong_token_does_not_see_a_task_that_is_there(wire: Wire) -> None:
    """The fast way of answering polls asks for the token too."""
    uuid = wire.task()
    refused = {"error": "Invalid authentication token: token does not match."}
    for query in ({"token": "wrong"}, {}, {"token": "wrong", "with_output": "0"}):
        assert wire.http.get(f"{wire.url}/task/{uuid}/info", params=query).json() == refused


@pytest.mark.contract("1 token in header")
def test_the_token_may_come_in_a_header(wire: Wire) -> None:
    """Design 10."""
    uuid = wire.task()
    headers = {"Authorization": f"Bearer {wire.token}"}
    assert wire.http.get(f"{wire.url}/task/{uuid}/info", headers=headers).json()["uuid"] == uuid
    assert "version" in wire.http.get(f"{wire.url}/info", headers=headers).json()


@pytest.mark.contract("1 wrong token")
def test_a_repeated_token_is_no_token(wire: Wire) -> None:
    """Contract 1.7."""
    answer = wire.http.get(f"{wire.url}/info?token={wire.token}&token={wire.token}")
    assert "error" in answer.json()


@pytest.mark.contract("2.6 unknown", "1 errors are 200", "10 3")
def test_an_unknown_task_is_told_so(wire: Wire) -> None:
    """Contract 2.6, 2.7."""
    for path in ("info", "output", "download/all.zip"):
        assert wire.get(f"/task/nonsense/{path}").json() == {"error": "nonsense not found"}


@pytest.mark.contract("1 broken json")
@pytest.mark.parametrize("path", ["/task/cancel", "/task/remove", "/task/restart", "/task/new"])
def test_a_body_that_is_not_json_is_told_so(wire: Wire, path: str) -> None:
    """Contract 1.2: 200 with the parser's complaint, and what would be right."""
    error = wire.error(path, content=b"{not json", headers={"content-type": "application/json"})
    assert "not JSON" in error
    assert "object" in wire.error(path, json=["a", "list"])


@pytest.mark.contract("1 large body")
def test_a_huge_body_is_refused(wire: Wire) -> None:
    """Contract 1.2."""
    assert wire.error("/task/cancel", json={"uuid": "x" * 200_000}) == "request entity too large"


@pytest.mark.contract("1 broken multipart")
def test_broken_multipart_bodies_are_told_so(wire: Wire) -> None:
    """Contract 1.2."""
    cases = {
        "multipart/form-data": "Multipart: Boundary not found",
        "multipart/form-data; boundary=x": "Unexpected end of multipart data",
    }
    for content_type, text in cases.items():
        headers = {"content-type": content_type}
        assert wire.error("/task/new/init", content=b"--x\r\nhalf", headers=headers) == text
    field = {"name": (None, "n" * (1024 * 1024 + 1))}
    assert wire.error("/task/new/init", files=field) == "Field value too long"


@pytest.mark.contract("1 debug hook")
def test_debug_unauthorized_is_a_bare_401(wire: Wire) -> None:
    """Contract 1.1: a hook that client tests use."""
    answer = wire.get("/info", _debugUnauthorized="1")
    assert (answer.status_code, answer.content) == (401, b"")


@pytest.mark.contract("2.14 info", "2.14 login", "1 open paths")
def test_auth_endpoints_say_that_there_is_no_login(wire: Wire) -> None:
    """Contract 2.14."""
    answer = wire.http.get(wire.url + "/auth/info").json()
    assert answer == {
        "message": "Authentication not available on this node",
        "loginUrl": None,
        "registerUrl": None,
    }
    for path in ("/auth/login", "/auth/register"):
        assert wire.http.post(wire.url + path).json() == {"error": "Not available"}


@pytest.mark.contract("2.6 with_output", "2.7 list", "2.7 cleaned", "8.2 polling", "8.3 probe", "10 8", "10 9")
def test_output_slices_as_javascript_does(wire: Wire) -> None:
    """Contract 2.6, 2.7: present even if 0, negative, past the end, nonsense."""
    uuid = wire.task("say one\nsay error\nsay three")
    wire.ended(uuid)
    lines = wire.output(uuid)
    assert {"one", "[error]", "three"} <= set(lines)
    expected = {
        "0": lines,
        "": lines,
        "abc": lines,
        "2": lines[2:],
        "2.7": lines[2:],
        "-3": lines[-3:],
        "1e1": lines[10:],
        "0x3": lines[3:],
        "100000": [],
        "-100000": lines,
        "Infinity": [],
    }
    for start, wanted in expected.items():
        assert wire.output(uuid, line=start) == wanted, start
        assert wire.info(uuid, with_output=start)["output"] == wanted, start


@pytest.mark.contract("4.2 conversion", "4.2 domains", "4.3 all at once", "4.1 unknown names")
def test_options_are_checked_as_nodeodm_checks_them(wire: Wire) -> None:
    """Contract 4: all problems at once, in catalogue order; unknown names are dropped."""
    wrong = [
        {"name": "crop", "value": "x"},
        {"name": "feature-type", "value": "zzz"},
        {"name": "dsm", "value": "yes"},
        {"name": "mesh-octree-depth", "value": 15},
        {"name": "no-such-option", "value": 1},
    ]
    error = wire.error("/task/new/init", files={"options": (None, json.dumps(wrong))})
    assert json.loads(error) == [
        {"name": "feature-type", "error": "Invalid value zzz (not in enum)"},
        {"name": "mesh-octree-depth", "error": "Invalid value 15 (out of range)"},
        {"name": "crop", "error": "Invalid value NaN (out of range)"},
        {"name": "dsm", "error": "Cannot convert yes to boolean"},
    ]


@pytest.mark.contract("2.6 options", "4.2 conversion", "4.4 post-processing", "10 10")
def test_options_come_back_typed_and_in_order(wire: Wire) -> None:
    """Contract 4.2, 4.4."""
    given: list[dict[str, Any]] = [
        {"name": "gps-accuracy", "value": "1.5"},
        {"name": "mesh-size", "value": "12.7"},
        {"name": "dtm", "value": "1"},
        {"name": "cog", "value": False},
    ]
    uuid = wire.task(options=given)
    assert wire.info(uuid)["options"] == [
        {"name": "mesh-size", "value": 12},
        {"name": "dtm", "value": True},
        {"name": "cog", "value": False},
        {"name": "gps-accuracy", "value": 1.5},
        {"name": "pc-ept", "value": True},
        {"name": "gltf", "value": True},
    ]


@pytest.mark.contract("3.2 default")
def test_a_task_without_a_name_gets_one(wire: Wire) -> None:
    """Contract 3.2: PyODM needs one."""
    uuid = wire.init({"options": "[]"})
    wire.upload(uuid, ("a.jpg", JPEG))
    wire.commit(uuid)
    assert wire.info(uuid)["name"].startswith("Task of 20")


@pytest.mark.contract("1 never 5xx")
@pytest.mark.parametrize("path", ["/task/a%00b/info", "/task/%00/output", "/task/%00/download/all.zip"])
def test_a_uuid_that_no_database_can_hold_is_not_found(wire: Wire, path: str) -> None:
    """A NUL in the path is told of, and does not break the connection."""
    assert wire.get(path).json()["error"].endswith("not found")


@pytest.mark.contract("1 never 5xx")
@pytest.mark.parametrize("what", ["cancel", "remove", "restart"])
def test_a_nul_in_a_form_is_not_found_either(wire: Wire, what: str) -> None:
    """Nor does one in the body of cancel, remove and restart."""
    assert wire.act(what, "a\0b")["error"] == "ab not found"
