"""The NodeODM API seen from the other side: what a router says to its nodes."""

from typing import Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from common.federation import AttemptKey
from common.tokens import TOKEN_REFUSED

_ATTEMPTS = 3


class NodeUnreachable(Exception):
    """The node did not answer."""


class NodeRefused(Exception):
    """The node answered, and said no; the text is its own."""


class TokenRefused(NodeRefused):
    """The node does not know our token: it has just been started, and will be told when it joins."""


class NodeAnswerUnreadable(Exception):
    """The node answered with something that the API does not have."""


class NodeClient:
    """One node. Every call is safe to repeat, so every call is repeated when a connection fails."""

    def __init__(self, url: str, token: str, http: httpx.AsyncClient) -> None:
        """`url` without a token: that goes in a header, where no log and no error text shows it."""
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = http

    async def submit(self, forward: dict[str, Any], uuid: str, traceparent: str = "") -> str:
        """`POST /task/new` by reference; the same uuid and attempt again start nothing new.

        `traceparent`: the span that its run hangs below; empty where there are no traces.
        """
        headers = {"set-uuid": uuid} | ({"traceparent": traceparent} if traceparent else {})
        answer = await self._ask("POST", "/task/new", forward, headers)
        if answer.get("uuid") != uuid:
            raise NodeAnswerUnreadable(
                f"{self._url} took task {uuid} as {answer.get('uuid')!r}; expected the same uuid."
            )
        return uuid

    async def let_go(self, key: AttemptKey) -> None:
        """End this attempt and forget it, if the node still has it."""
        await self._ask("POST", "/federation/let-go", key.model_dump())

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(_ATTEMPTS),
                wait=wait_exponential_jitter(multiplier=0.2, max=2),
                retry=retry_if_exception_type(httpx.TransportError),
                reraise=True,
            ):
                with attempt:
                    answer = await self._http.request(
                        method, self._url + path, json=body, headers=self._headers | (headers or {})
                    )
        except httpx.TransportError as trouble:
            problem = str(trouble) or type(trouble).__name__
            raise NodeUnreachable(f"{method} {self._url}{path} got no answer: {problem}") from trouble
        return self._read(answer, f"{method} {self._url}{path}")

    def _read(self, answer: httpx.Response, request: str) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.status_code != httpx.codes.OK or not isinstance(document, dict):
            raise NodeAnswerUnreadable(f"{request} answered {answer.status_code}; expected 200 and a JSON object.")
        if "error" in document:
            told = str(document["error"])
            raise TokenRefused(told) if told == TOKEN_REFUSED else NodeRefused(told)
        return document
