"""The dashboard beside the API, without a database and without a browser."""

import subprocess
import sys

import httpx
import pytest
from starlette.responses import PlainTextResponse

from router.dashboard.site import Beside

SECRETS = {
    "SCALEODM_ROUTER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "SCALEODM_ROUTER_SECRET_KEY": "k" * 32,
    "SCALEODM_ROUTER_ADMIN_TOKEN": "t" * 32,
    "SCALEODM_STAGING": "s3://staging/",
}
ASK = """
import asyncio, sys
import httpx
from common.settings import S3Settings, read_settings
from router.app import RouterProgram
from router.settings import RouterSettings

async def ask():
    app = RouterProgram(read_settings(RouterSettings), read_settings(S3Settings)).app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        return (await client.get("/dashboard/login")).status_code

print(asyncio.run(ask()), "jinja2" in sys.modules)
"""


@pytest.mark.parametrize(("switch", "expected"), [("on", "200 True"), ("off", "404 False")])
def test_it_can_be_left_away(switch: str, expected: str) -> None:
    """Switched off it is not even imported."""
    environment = {**SECRETS, "SCALEODM_ROUTER_DASHBOARD": switch}
    said = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected


async def test_only_what_is_below_it_comes_to_it() -> None:
    """A name that merely begins so does not."""
    app = Beside("/dashboard", PlainTextResponse("inner"), PlainTextResponse("other"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        paths = ("/dashboard", "/dashboard/", "/dashboard/nodes", "/dashboards", "/", "/Dashboard")
        said = [(await client.get(path)).text for path in paths]
    assert said == ["inner", "inner", "inner", "other", "other", "other"]
