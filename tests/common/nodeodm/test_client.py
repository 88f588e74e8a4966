"""What a router makes of its nodes' answers, odd ones above all."""

from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from common.nodeodm.client import NodeAnswerUnreadable, NodeClient, NodeRefused, NodeUnreachable

URL = "http://node.example:3001"


@pytest.fixture
async def client() -> AsyncIterator[NodeClient]:
    """A client of a node that respx plays."""
    async with httpx.AsyncClient() as http:
        yield NodeClient(URL + "/", "very-secret", http)


@respx.mock
async def test_a_task_is_handed_over_with_the_token_in_a_header(client: NodeClient) -> None:
    """Never in the URL, which ends up in logs (I9)."""
    asked = respx.post(f"{URL}/task/new").respond(json={"uuid": "u"})
    assert await client.submit({"attempt": 1}, "u") == "u"
    request = asked.calls.last.request
    assert request.headers["authorization"] == "Bearer very-secret"
    assert request.headers["set-uuid"] == "u"
    assert "secret" not in str(request.url)


@respx.mock
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(502, text="<html>Bad gateway</html>"), "answered 502"),
        (httpx.Response(200, text="<html>a login page</html>"), "answered 200; expected 200 and a JSON object"),
        (httpx.Response(200, text='{"uuid": "u'), "expected 200 and a JSON object"),
        (httpx.Response(200, json=["u"]), "expected 200 and a JSON object"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), "answered 302"),
        (httpx.Response(200, json={"uuid": "another"}), "as 'another'"),
    ],
)
async def test_answers_that_are_none_are_told(client: NodeClient, answer: httpx.Response, told: str) -> None:
    """Not retried: the node is there, and repeating would get the same."""
    asked = respx.post(f"{URL}/task/new").mock(return_value=answer)
    with pytest.raises(NodeAnswerUnreadable, match=told):
        await client.submit({}, "u")
    assert asked.call_count == 1


@respx.mock
async def test_a_refusal_keeps_the_nodes_own_words(client: NodeClient) -> None:
    """They are what the user is told."""
    respx.post(f"{URL}/task/new").respond(json={"error": "too many images"})
    with pytest.raises(NodeRefused, match=r"^too many images$"):
        await client.submit({}, "u")


@respx.mock
async def test_lost_connections_are_tried_again_a_few_times(client: NodeClient) -> None:
    """Every call is safe to repeat (design 4.2)."""
    asked = respx.post(f"{URL}/task/new")
    asked.side_effect = [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.Response(200, json={"uuid": "u"})]
    assert await client.submit({}, "u") == "u"
    asked.side_effect = httpx.ConnectError("refused")
    with pytest.raises(NodeUnreachable, match=f"POST {URL}/task/new got no answer: refused"):
        await client.submit({}, "u")
    assert asked.call_count == 6
