"""`scaleodm doctor` on planted faults: each real, each told in one line with what to do."""

import asyncio
import json
import secrets
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from common.checks import Check, Grade, clock, ok, parsed, problem, written
from common.embedded.children import free_port
from common.embedded.stack import Stack
from tests.common.command.running import Ended, Shell
from tests.common.command.standins import Answer, Serve, as_json, router_answers


def problems(done: Ended) -> dict[str, str]:
    """What `doctor --json` found wrong, by name."""
    told = done.json
    assert done.code == (0 if told["healthy"] else 1), done.err
    return {each["name"]: f"{each['text']} {each['advice']}" for each in told["checks"] if each["grade"] == "problem"}


@pytest.fixture
def set_up(bare: Shell, federation: Stack) -> Shell:
    """A router's machine, on which all is well: its settings are those of the federation's own router."""
    return bare.under(
        **federation.storage_environment(),
        SCALEODM_URL=federation.router_url,
        SCALEODM_TOKEN=federation.admin_token,
        SCALEODM_ROUTER_DATABASE_URL=federation.database_url,
        SCALEODM_ROUTER_SECRET_KEY="k" * 32,
        SCALEODM_ROUTER_ADMIN_TOKEN="whatever",
    )


@pytest.fixture
def only_settings(bare: Shell, federation: Stack) -> Shell:
    """A machine of which only a router's settings are known, and none of S3's."""
    return bare.under(
        SCALEODM_ROUTER_DATABASE_URL=federation.database_url,
        SCALEODM_ROUTER_SECRET_KEY="k" * 32,
        SCALEODM_ROUTER_ADMIN_TOKEN="whatever",
    )


@pytest.fixture
def only_s3(bare: Shell, federation: Stack) -> Shell:
    """A machine of which S3 alone is looked at."""
    return bare.under(**federation.storage_environment())


def node(**changes: Any) -> dict[str, Any]:
    """A healthy node, as routers tell of it."""
    return {
        "id": "1",
        "name": "oslo",
        "url": "http://127.0.0.1:9",
        "kind": "member",
        "engine": "odm",
        "engineVersion": "3.6.0",
        "health": "healthy",
        "draining": False,
        "locked": False,
        "quarantine": None,
        "onProbation": False,
        "slots": 2,
        "placed": 0,
        "direct": 0,
    } | changes


def test_all_is_well_where_it_is(set_up: Shell, federation: Stack) -> None:
    """Every part was looked at; nothing is left in staging."""
    done = set_up("doctor", "--json")
    assert problems(done) == {}
    looked_at = {each["name"] for each in done.json["checks"]}
    assert looked_at >= {"router settings", "database", "migrations", "database clock", "S3", "S3 links", "S3 clock"}
    assert looked_at >= {"router", "router clock", "token", "router release", "router database", "node node-1"}
    staging = federation.object_store.folder / "staging"
    assert not [path for path in staging.rglob("*") if "doctor" in str(path) and path.is_file()]


# The router's own settings and database


def test_settings_that_no_router_could_start_with(only_settings: Shell) -> None:
    """All of them at once."""
    found = problems(
        only_settings.under(SCALEODM_ROUTER_SECRET_KEY="short", SCALEODM_ROUTER_PORT="x")("doctor", "--json")
    )
    assert "SCALEODM_ROUTER_SECRET_KEY" in found["router settings"]
    assert "SCALEODM_ROUTER_PORT" in found["router settings"]


def test_a_database_on_a_closed_port(only_settings: Shell) -> None:
    """Host and port are named, the password is not."""
    port = free_port()
    url = f"postgresql://scaleodm:very-secret@127.0.0.1:{port}/scaleodm"
    done = only_settings.under(SCALEODM_ROUTER_DATABASE_URL=url)("doctor", "--json")
    assert f"Postgres at 127.0.0.1:{port} cannot be reached" in problems(done)["database"]
    assert "very-secret" not in done.out + done.err


def test_a_database_that_does_not_know_the_password(only_settings: Shell, federation: Stack) -> None:
    """Nor the user."""
    url = make_url(federation.database_url).set(username="mallory", password="very-secret")
    done = only_settings.under(SCALEODM_ROUTER_DATABASE_URL=url.render_as_string(hide_password=False))(
        "doctor", "--json"
    )
    assert "refuses the user mallory or its password" in problems(done)["database"]
    assert "very-secret" not in done.out + done.err


def test_a_database_that_is_not_there(only_settings: Shell, federation: Stack) -> None:
    """With the command that makes it."""
    url = make_url(federation.database_url).set(database="nowhere").render_as_string(hide_password=False)
    found = problems(only_settings.under(SCALEODM_ROUTER_DATABASE_URL=url)("doctor", "--json"))
    assert 'has no database nowhere Make it: CREATE DATABASE "nowhere"' in found["database"]


def test_a_database_in_which_a_newer_release_has_been(only_settings: Shell, federation: Stack) -> None:
    """Its last migration is not ours."""
    url = asyncio.run(_database_at("9999", federation.database_url))
    found = problems(only_settings.under(SCALEODM_ROUTER_DATABASE_URL=url)("doctor", "--json"))
    assert "the tables are at 9999, which this release does not know" in found["migrations"]


async def _database_at(revision: str, server_url: str) -> str:
    name = f"doctor_{secrets.token_hex(6)}"
    url = make_url(server_url).set(drivername="postgresql+asyncpg")
    server = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await server.dispose()
    inside = create_async_engine(url.set(database=name), isolation_level="AUTOCOMMIT")
    async with inside.connect() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
    await inside.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


# S3


@pytest.mark.timeout(90)
def test_an_s3_on_a_closed_port(only_s3: Shell) -> None:
    """Told once, not for each right."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    found = problems(only_s3.under(AWS_ENDPOINT_URL_S3=endpoint).inside("doctor", "--json"))
    assert list(found) == ["S3"]
    assert f"S3 at {endpoint} does not answer" in found["S3"]
    assert "Check AWS_ENDPOINT_URL_S3" in found["S3"]


def test_a_bucket_that_is_not_there(only_s3: Shell) -> None:
    """Neither made nor hidden."""
    found = problems(only_s3.under(SCALEODM_STAGING="s3://no-such-bucket/x/").inside("doctor", "--json"))
    assert list(found) == ["S3"]
    assert "does not exist" in found["S3"]
    assert "SCALEODM_STAGING" in found["S3"]


def test_keys_that_s3_does_not_know(only_s3: Shell) -> None:
    """The key is not shown."""
    done = only_s3.under(AWS_SECRET_ACCESS_KEY="very-secret").inside("doctor", "--json")
    assert "S3 refuses these keys to write" in problems(done)["S3 write"]
    assert "very-secret" not in done.out + done.err


def test_keys_that_may_only_read(only_s3: Shell, federation: Stack, serve: Serve) -> None:
    """An S3 in front of the real one that refuses what changes anything."""
    denied = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    listing = (
        b"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Name>staging</Name>"
        b"<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
    )

    def answer(method: str, path: str) -> Answer | None:
        del path
        xml = {"Content-Type": "application/xml"}
        return (403, xml, denied) if method in ("PUT", "POST", "DELETE") else (200, xml, listing)

    assert federation.s3_url
    done = only_s3.under(AWS_ENDPOINT_URL_S3=serve(answer)).inside("doctor", "--json")
    assert list(problems(done)) == ["S3 write"]
    assert "s3:PutObject" in problems(done)["S3 write"]
    notes = [each["text"] for each in done.json["checks"] if each["grade"] == "note"]
    assert "they may list: these are keys for reading only" in notes


def test_a_public_address_of_s3_that_leads_nowhere(only_s3: Shell) -> None:
    """Clients would be sent there for their products."""
    public = f"http://127.0.0.1:{free_port()}"
    found = problems(only_s3.under(SCALEODM_S3_PUBLIC_ENDPOINT_URL=public).inside("doctor", "--json"))
    assert f"clients cannot be sent to {public}" in found["S3 links"]
    assert "SCALEODM_S3_PUBLIC_ENDPOINT_URL" in found["S3 links"]


# A router and its nodes


def test_a_router_that_is_not_there(bare: Shell) -> None:
    """Its address, and where that is from."""
    url = f"http://127.0.0.1:{free_port()}"
    found = problems(bare.inside("doctor", "--json", "--url", url))
    assert f"nobody answers at {url} (from --url): connection refused" in found["router"]


def test_a_token_that_the_router_does_not_know(set_up: Shell) -> None:
    """Told apart from a router that is not there."""
    done = set_up.under(SCALEODM_TOKEN="very-secret").inside("doctor", "--json")
    assert "does not know this token" in problems(done)["token"]
    assert "very-secret" not in done.out + done.err


@pytest.mark.parametrize(("hours", "way"), [(1, "ahead of"), (-1, "behind")])
def test_a_clock_that_is_off_by_an_hour(bare: Shell, serve: Serve, hours: int, way: str) -> None:
    """S3 would refuse what is signed by it."""
    url = serve(router_answers(date=datetime.now(UTC) + timedelta(hours=hours), nodes=[node()]))
    found = problems(bare.inside("doctor", "--json", "--url", url, "--token", "t"))
    assert f"s {way} this machine's" in found["router clock"]
    assert "NTP" in found["router clock"]


def test_a_router_of_another_release(bare: Shell, serve: Serve) -> None:
    """Both are named."""
    url = serve(router_answers(about={"release": "0.0.9"}, nodes=[node()]))
    found = problems(bare.inside("doctor", "--json", "--url", url, "--token", "t"))
    assert found["router release"] == "the router is 0.0.9, this is 0.1.0 Bring both to the same release."


def test_a_node_of_an_older_release(bare: Shell, serve: Serve) -> None:
    """It does not even tell its release."""
    old = serve(lambda _, path: as_json({"name": "oslo", "proof": "x"}) if "identity" in path else None)
    found = problems(
        bare.inside("doctor", "--json", "--url", serve(router_answers(nodes=[node(url=old)])), "--token", "t")
    )
    assert list(found) == ["node oslo release"]
    assert "it is older, this is 0.1.0" in found["node oslo release"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"health": "late"}, "the router has it as late"),
        ({"health": "lost"}, "scaleodm nodes remove oslo --force"),
        ({"quarantine": "3 tasks failed at once"}, "quarantined: 3 tasks failed at once"),
    ],
)
def test_a_node_that_gets_no_work(bare: Shell, serve: Serve, changes: dict[str, Any], told: str) -> None:
    """With what to do about it."""
    found = problems(
        bare.inside("doctor", "--json", "--url", serve(router_answers(nodes=[node(**changes)])), "--token", "t")
    )
    assert told in found["node oslo"]


def test_a_federation_without_nodes_and_tables_that_do_not_fit(bare: Shell, serve: Serve) -> None:
    """The router's own database, as the router tells of it."""
    database = {"version": "17", "number": 170000, "ahead": 400.0, "migration": "0003", "newest": "0004"}
    found = problems(
        bare.inside("doctor", "--json", "--url", serve(router_answers(about={"database": database})), "--token", "t")
    )
    assert "none has joined" in found["nodes"]
    assert "its tables are at 0003" in found["router database"]
    assert "400 s ahead of the router's" in found["database clock"]


# A node


def test_a_node_without_engine_folder_and_token(bare: Shell, federation: Stack, tmp_path: Path) -> None:
    """What runs ODM is not there, its folder is a file, and the router does not know what it would join with."""
    (tmp_path / "file").touch()
    shell = bare.under(
        **federation.storage_environment(),
        SCALEODM_NODE_ROUTER_URL=federation.router_url,
        SCALEODM_NODE_JOIN_TOKEN="t",
        SCALEODM_NODE_ENGINE="odm",
        SCALEODM_NODE_ENGINE_COMMAND="/nowhere/run.sh",
        SCALEODM_NODE_DATA=str(tmp_path / "file"),
    )
    found = problems(shell("doctor", "--json"))
    assert "does not know this token" in found["joining"]
    assert "/nowhere/run.sh is not there" in found["engine"]
    assert "is no folder" in found["node disk"]


def test_a_node_whose_cluster_is_not_there(bare: Shell, tmp_path: Path) -> None:
    """A kubeconfig that leads to a closed port; and no S3 settings at all."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "u", "user": {"token": "very-secret"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    shell = bare.under(
        SCALEODM_NODE_USER_TOKEN="t",
        SCALEODM_NODE_BACKEND="kubernetes",
        SCALEODM_JOB_STAGES_IMAGE="scaleodm",
        SCALEODM_JOB_NAMESPACE="odm",
        SCALEODM_JOB_KUBECONFIG=str(tmp_path / "kubeconfig"),
    )
    done = shell("doctor", "--json")
    assert "SCALEODM_JOB_KUBECONFIG" in problems(done)["kubernetes"]
    assert "SCALEODM_STAGING" in problems(done)["S3 settings"]
    assert "very-secret" not in done.out + done.err


def test_nothing_to_look_at_is_said(bare: Shell) -> None:
    """With how to name something."""
    bare("doctor").refused(2, "No router is known here")


def test_for_people_each_finding_is_one_line(bare: Shell) -> None:
    """Grade, name, text; and the number of problems at the end."""
    done = bare("doctor", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.code == 1
    (line,) = done.out.splitlines()
    assert line.split("\t")[:2] == ["problem", "router"]
    assert done.err == "1 problem found.\n"


def test_checks_survive_the_way_between_processes() -> None:
    """Whatever else a program prints."""
    checks = [ok("a", 'with "quotes" and ü'), problem("b", "text", "advice"), Check("c", Grade.NOTE, "n")]
    assert parsed("a log line\n" + written(checks)) == checks
    assert clock("x", 59).grade is Grade.OK
    assert clock("x", -61).grade is Grade.PROBLEM


def test_a_port_that_is_open_and_silent_does_not_hang_the_doctor(bare: Shell) -> None:
    """Told after seconds."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        found = problems(bare("doctor", "--json", "--url", f"http://127.0.0.1:{mute.getsockname()[1]}"))
    assert "timed out" in found["router"]
