"""The API's own description: whole, valid in both versions, and true of what router and node really answer."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV2SpecValidator, validate
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from common.embedded.stack import Stack
from common.nodeodm.description import ROUTES
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.client import Wire

FUZZ = int(os.environ.get("SCALEODM_TEST_FUZZ", "1"))
"""How many times as many requests as usual."""
EXAMPLES = 4 * FUZZ
"""Per route and kind of request."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(params=["router", "node"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """The NodeODM API of either."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


def document(wire: Wire, name: str) -> dict[str, Any]:
    """Its description; no token is needed."""
    found: dict[str, Any] = wire.http.get(f"{wire.url}/{name}").json()
    return found


@pytest.mark.contract("2.2 document")
def test_both_descriptions_are_valid(wire: Wire) -> None:
    """By the specifications' own schemas."""
    validate(document(wire, "openapi.json"))
    validate(document(wire, "swagger.json"), cls=OpenAPIV2SpecValidator)


@pytest.mark.contract("2.2 document")
def test_swagger_tells_of_the_same_routes(wire: Wire) -> None:
    """Every route of the NodeODM API with what it takes, in the words of Swagger 2.0."""
    new, old = document(wire, "openapi.json"), document(wire, "swagger.json")
    told = {path: operations for path, operations in new["paths"].items() if _is_nodeodm(operations)}
    assert old["paths"].keys() == told.keys() == ROUTES.keys()
    upload = old["paths"]["/task/new/upload/{uuid}"]["post"]
    assert upload["consumes"] == ["multipart/form-data"]
    kinds = {each["name"]: (each["in"], each["type"]) for each in upload["parameters"]}
    assert kinds == {"uuid": ("path", "string"), "token": ("query", "string"), "images": ("formData", "file")}
    cancel = old["paths"]["/task/cancel"]["post"]
    assert [each["name"] for each in cancel["parameters"] if each["required"]] == ["uuid"]
    assert cancel["responses"]["200"]["schema"] == {"$ref": "#/definitions/Response"}
    assert cancel["responses"]["default"]["schema"] == {"$ref": "#/definitions/Error"}
    assert old["definitions"]["NodeInfo"]["properties"]["maxImages"] == {"type": "integer", "x-nullable": True}


def _is_nodeodm(operations: dict[str, Any]) -> bool:
    return any("NodeODM" in operation["tags"] for operation in operations.values())


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A federation of its own: what is sent to it may do anything that an administrator may."""
    with Stack(
        tmp_path_factory.mktemp("fuzzed"), nodes=1, node_settings=ENGINE, router_settings=PATIENT_ROUTER
    ) as stack:
        yield stack


@pytest.mark.contract("1 never 5xx", "1 errors are 200")
@pytest.mark.timeout(120 + 60 * FUZZ)
@pytest.mark.parametrize("program", ["router", "node"])
def test_every_answer_is_one_that_is_described(apart: Stack, program: str) -> None:
    """Requests made of the description, right and wrong: no 500, no dropped connection, nothing undocumented."""
    url, token = (
        (apart.router_url, apart.admin_token)
        if program == "router"
        else (apart.node_urls["node-1"], apart.node_user_token("node-1"))
    )
    told = httpx.get(f"{url}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(told)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == sum(len(each) for each in told["paths"].values())
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _try(operation, mode, url, token)


def _try(operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: GenerationMode, url: str, token: str) -> None:
    """Some requests of one route."""
    known = {"token": token} if any(each.name == "token" for each in operation.query) else None

    @seed(FUZZ)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, query=known))
    def send(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, checks=CHECKS, timeout=30, allow_redirects=False
        )

    # Some routes take nothing that could be wrong.
    with contextlib.suppress(*([Unsatisfiable] if mode is GenerationMode.NEGATIVE else [])):
        send()
