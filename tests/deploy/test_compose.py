"""compose.yml and what belongs to it, read against the code: settings, ports, probes, secrets, images, addresses."""

import re
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from starlette.types import ASGIApp

from common.embedded.object_store import ObjectStore
from common.settings import InputSettings, S3Settings, read_settings
from node.app import NodeProgram, OnThisMachine
from node.settings import JobSettings, NodeSettings
from router.app import RouterProgram
from router.settings import RouterSettings
from tests.docs.settings import variables

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yml").read_text()
ODM = (ROOT / "deploy/compose/odm.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
HAPROXY = (ROOT / "deploy/compose/haproxy.cfg").read_text()
NEW_ENV = ROOT / "deploy/compose/new-env.sh"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
_ROUTER = {"router-1", "router-2"}
_NODE = {"node-1", "node-2"}


def of_env(text: str) -> dict[str, str]:
    """What a file of variables says."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


@cache
def made() -> str:
    """A .env as new-env.sh makes it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "env")
        run_new_env(file)
        return file.read_text()


def run_new_env(file: Path) -> "subprocess.CompletedProcess[str]":
    """The command of the documents, for a file of another name."""
    return subprocess.run(["sh", str(NEW_ENV), str(file)], capture_output=True, text=True, timeout=30)


@cache
def services(text: str = COMPOSE) -> dict[str, Any]:
    """The services, with the values of a new .env in them as compose puts them there."""
    values = of_env(made())
    put = _VARIABLE.sub(lambda found: values[found["name"]] if found["name"] in values else found["rest"], text)
    return dict(yaml.safe_load(put)["services"])


def settings_of(service: str) -> dict[str, str]:
    """Its variables, over those that its image sets."""
    from tests.deploy.test_dockerfile import environment

    told = services()[service]
    return {**environment(told["build"]["target"]), **told["environment"]}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A service whose variables are those of this process."""
    service = str(request.param)
    for name, value in settings_of(service).items():
        if name.startswith(("SCALEODM_", "AWS_")):
            monkeypatch.setenv(name, str(value))
    return service


@pytest.mark.parametrize(("own", "kinds"), [(_ROUTER, (RouterSettings,)), (_NODE, (NodeSettings, InputSettings))])
def test_every_variable_is_a_setting_of_its_program(own: set[str], kinds: tuple[Any, ...]) -> None:
    """A misspelt one would be ignored in silence."""
    known = {name for kind in (*kinds, S3Settings) for name in variables(kind)}
    for service in own:
        assert services()[service]["environment"].keys() - known == set()
    odm = {name for each in services(ODM).values() for name in each["environment"]}
    assert odm <= set(variables(NodeSettings))


async def answer(app: ASGIApp) -> int:
    """The status of what images and proxy ask for."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        return (await client.get("/healthz")).status_code


@pytest.mark.parametrize("given", sorted(_ROUTER), indirect=True)
async def test_a_router_takes_its_settings(given: str) -> None:
    """The whole program is built of them, as in the container; alone, it answers where its health is asked."""
    assert given
    program = RouterProgram(read_settings(RouterSettings), read_settings(S3Settings))
    assert await answer(program.app) == 200


@pytest.mark.parametrize("given", sorted(_NODE), indirect=True)
async def test_a_node_takes_its_settings_and_is_found_where_it_says(given: str) -> None:
    """Under its own name, at the port that it listens on; its data on a volume of its own."""
    settings = read_settings(NodeSettings)
    program = NodeProgram(settings, read_settings(S3Settings), OnThisMachine(settings))
    assert await answer(program.app) == 200
    assert OnThisMachine(settings).engine.now.name == "orthomosaic"
    assert settings.name == given
    assert urlsplit(str(settings.url)).hostname == given
    assert urlsplit(str(settings.url)).port == settings.port
    assert services()[given]["volumes"] == [f"{given}:{settings.data}"]
    assert {urlsplit(each).hostname for each in settings.router_urls} == _ROUTER
    assert {urlsplit(each).port for each in settings.router_urls} == {RouterSettings.model_fields["port"].default}
    assert settings.join_token is not None
    assert settings.join_token.get_secret_value() == of_env(made())["SCALEODM_ROUTER_NODE_TOKEN"]


def test_nodes_of_odm_run_it_by_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables of both files together."""
    for name, value in (settings_of("node-1") | services(ODM)["node-1"]["environment"]).items():
        monkeypatch.setenv(name, str(value))
    assert OnThisMachine(read_settings(NodeSettings)).engine.now.command == ("/code/run.sh",)
    arguments = services(ODM)["node-1"]["build"]["args"]
    assert arguments["NODE_BASE"] == JobSettings.model_fields["engine_image"].default
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE))
    (writable,) = JobSettings.model_fields["engine_writable"].get_default(call_default_factory=True)
    user = JobSettings.model_fields["user"].default
    assert services(ODM)["node-1"]["tmpfs"] == [f"{writable}:mode=1777,uid={user},gid={user}"]


def test_s3_is_where_everybody_looks_for_it() -> None:
    """One server, with the keys, the bucket and the flags that the embedded stack has too."""
    s3 = services()["s3"]
    keys = of_env(made())
    assert s3["environment"]["RCLONE_AUTH_KEY"] == f'"{keys["AWS_ACCESS_KEY_ID"]},{keys["AWS_SECRET_ACCESS_KEY"]}"'
    (command,) = s3["command"]
    source = Path(str(ObjectStore.__module__).replace(".", "/") + ".py")
    for flag in ("--vfs-cache-mode off", "--dir-cache-time 8760h"):
        assert flag in command
        assert all(f'"{word}"' in (ROOT / source).read_text() for word in flag.split())
    for service in _ROUTER | _NODE:
        told = settings_of(service)
        assert told["AWS_ENDPOINT_URL_S3"] == "http://s3:9000"
        bucket = urlsplit(told["SCALEODM_STAGING"]).netloc
        assert f"mkdir -p /data/{bucket} " in command
        assert urlsplit(told["SCALEODM_S3_PUBLIC_ENDPOINT_URL"]).netloc == "127.0.0.1:9000"
    assert s3["ports"] == ["127.0.0.1:9000:9000"]


def test_the_proxy_knows_the_routers_and_asks_what_they_answer() -> None:
    """By name, port and path; and the address that runs are told is the proxy's."""
    port = RouterSettings.model_fields["port"].default
    assert set(re.findall(rf"^    server (\S+) \1:{port}$", HAPROXY, re.MULTILINE)) == _ROUTER
    assert "option httpchk GET /healthz\n" in HAPROXY
    assert f"bind :{port}\n" in HAPROXY
    proxy = services()["proxy"]
    assert proxy["ports"] == [f"127.0.0.1:{port}:{port}"]
    own = urlsplit(settings_of("router-1")["SCALEODM_ROUTER_URL"])
    assert own.hostname in proxy["networks"]["federation"]["aliases"]
    assert own.port == port


def test_the_proxy_says_no_5xx_and_asks_twice_only_what_it_may() -> None:
    """WebODM gives tasks up after one; and a task must not be made twice."""
    for code in (500, 502, 503, 504):
        assert f"errorfile {code} /dev/null\n" in HAPROXY
    assert "http-request disable-l7-retry unless METH_GET\n" in HAPROXY
    assert "option redispatch 1\n" in HAPROXY
    assert "http-buffer-request" not in HAPROXY
    assert "%HU" not in HAPROXY
    assert "httplog" not in HAPROXY


def test_every_variable_of_the_files_is_in_the_example_and_the_other_way_round() -> None:
    """Defaults too are the same, so that a line taken out of .env changes nothing."""
    used = {found["name"]: found for found in _VARIABLE.finditer(COMPOSE + ODM)}
    example = of_env(EXAMPLE)
    assert set(used) - set(example) == {"ODM_IMAGE"}
    assert set(example) - set(used) == set()
    for name, value in example.items():
        assert used[name]["kind"] == ("-" if value else "?"), name
        if value:
            assert {found["rest"] for found in _VARIABLE.finditer(COMPOSE + ODM) if found["name"] == name} == {value}


def test_without_a_secret_the_way_to_have_one_is_told() -> None:
    """By compose itself, before anything starts."""
    secrets = {found["name"] for found in _VARIABLE.finditer(COMPOSE) if found["kind"] == "?"}
    assert {"POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "SCALEODM_ROUTER_SECRET_KEY"} < secrets
    told = {found["rest"] for found in _VARIABLE.finditer(COMPOSE) if found["kind"] == "?"}
    assert told == {"run: sh deploy/compose/new-env.sh"}
    assert NEW_ENV.exists()


def test_new_secrets_are_long_apart_and_for_their_owner_alone(tmp_path: Path) -> None:
    """The rest of the file is the example's."""
    file = tmp_path / "env"
    told = run_new_env(file).stdout
    assert str(file) in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    values, example = of_env(file.read_text()), of_env(EXAMPLE)
    secrets = [values[name] for name, value in example.items() if not value]
    assert len(set(secrets)) == len(secrets) == 7
    assert all(re.fullmatch("[0-9a-f]{48}", each) for each in secrets)
    assert {name: value for name, value in values.items() if example[name]} == {k: v for k, v in example.items() if v}
    assert not [each for each in secrets if each in told]


def test_secrets_that_are_there_are_not_lost(tmp_path: Path) -> None:
    """They open the database and the nodes."""
    file = tmp_path / "env"
    file.write_text("A=1\n")
    done = run_new_env(file)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert file.read_text() == "A=1\n"


@pytest.mark.parametrize("text", [COMPOSE, ODM], ids=["compose.yml", "odm.yml"])
def test_every_image_that_is_built_has_its_target(text: str) -> None:
    """By the name that the manifests for Kubernetes use too."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    for each in services(text).values():
        if "build" in each:
            assert (ROOT / each["build"]["dockerfile"]).exists()
            target = each["build"]["target"]
            assert f" AS {target}\n" in dockerfile
            assert each["image"].partition(":")[0] in {f"scaleodm/{target}", "scaleodm/node-odm"}


@pytest.mark.parametrize("service", sorted(services()))
def test_a_service_has_no_right_that_it_needs_not(service: str) -> None:
    """No capability, no way to more, nothing to write but volumes and memory."""
    told = services()[service]
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["read_only"] is True
    assert not told.keys() & {"privileged", "cap_add", "pid", "ipc", "devices"}
    assert told.get("restart") == (None if service == "test" else "unless-stopped")
    assert all(each.split(":")[0] in _volumes() or each.endswith(":ro") for each in told.get("volumes", []))
    assert all(each.startswith("127.0.0.1:") for each in told.get("ports", []))


def _volumes() -> set[str]:
    return set(yaml.safe_load(COMPOSE)["volumes"])


def test_whoever_is_waited_for_can_say_that_it_is_healthy() -> None:
    """By compose, or by its image."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    for each in services().values():
        for name in each.get("depends_on", {}):
            other = services()[name]
            stage = dockerfile.partition(f" AS {other.get('build', {}).get('target')}\n")[2].partition("\nFROM")[0]
            assert "healthcheck" in other or "HEALTHCHECK" in stage


def test_files_that_are_mounted_are_there() -> None:
    """Else the engine makes a folder of that name."""
    mounted = [each.split(":")[0] for told in services().values() for each in told.get("volumes", [])]
    assert [each for each in mounted if each.startswith(".") and not (ROOT / each).is_file()] == []
