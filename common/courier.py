"""The call of a webhook: a POST of the task's info with `images`; success is status 200, and nothing else (contract 7).

Clients name the URLs, so a call reaches public addresses only, unless it is allowed more; it follows no redirect, reads
no answer, and whoever does not answer holds up nobody else.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

import httpx
from pydantic import SecretStr

from common.addresses import AddressRefused, Resolve, addresses_of, check_addresses
from common.references import Reference
from common.storage import Storage, StorageFault
from common.webhooks import Outcome, shown, signature

AT_ONCE = 40
AT_ONCE_PER_HOST = 4
ANSWER_WITHIN_S = 10.0
"""A receiver that takes longer has not answered."""
CLAIM_S = 20.0
"""How long a call that has begun keeps others from making the same one: somewhat longer than it can take."""
_CONNECT_WITHIN_S = 3.0
_IMAGES_WITHIN_S = 5.0


class Courier:
    """Makes calls. It keeps no record of them: whoever sends it does."""

    def __init__(
        self,
        storage: Storage,
        secret: SecretStr | None,
        private_allowed: bool,
        private_setting: str,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = addresses_of,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        """`private_allowed`: whether addresses of private networks may be called; `private_setting` allows it."""
        self._storage = storage
        self._secret = secret
        self._private_allowed = private_allowed
        self._private_setting = private_setting
        self._tls = tls or httpx.create_ssl_context()
        self._resolve = resolve
        self._answer_within_s = answer_within_s
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        # Of our own: a name server that does not answer must not take the threads that other work needs.
        self._lookups = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook-lookup")

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Wait for a place among the calls under way, of which one host's are a few."""
        host = self._hosts.setdefault(shown(url).lower(), asyncio.Semaphore(AT_ONCE_PER_HOST))
        async with host, self._at_once:
            yield

    async def call(self, url: str, delivery: str, payload: dict[str, Any], output: str | None) -> Outcome:
        """One try. `delivery` names what is delivered, the same for every try of it."""
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            return Outcome("its URL cannot be read; expected http://… or https://…", hopeless=True)
        if target.scheme not in ("http", "https") or not target.host or not 0 < (target.port or 443) < 2**16:
            return Outcome("its URL leads nowhere; expected http://… or https://…", hopeless=True)
        body = await self._body(payload, output)
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await self._post(target, self._headers(target, delivery, body), body)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(f"it did not answer within {self._answer_within_s:g} s")
        except AddressRefused as refused:
            return Outcome(str(refused))
        except httpx.ConnectError as trouble:
            return Outcome(f"it cannot be reached: {trouble}")
        except httpx.HTTPError as trouble:
            return Outcome(f"it broke the connection off ({type(trouble).__name__})")
        except (OSError, UnicodeError) as trouble:
            return Outcome(f"its host has no address ({trouble})")

    def close(self) -> None:
        """End what is still looked up."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    def _headers(self, target: httpx.URL, delivery: str, body: bytes) -> dict[str, str]:
        headers = {
            "Host": target.netloc.decode(),
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "ScaleODM",
            "X-ScaleODM-Delivery": delivery,
        }
        if self._secret is not None:
            headers["X-ScaleODM-Signature"] = signature(self._secret.get_secret_value(), int(time.time()), body)
        return headers

    async def _body(self, payload: dict[str, Any], output: str | None) -> bytes:
        try:
            async with asyncio.timeout(_IMAGES_WITHIN_S):
                return await self._storage.run(_body_with_images, self._storage, payload, output)
        except TimeoutError:
            return _body(payload, [])

    async def _post(self, target: httpx.URL, headers: dict[str, str], body: bytes) -> Outcome:
        trouble: httpx.TransportError | None = None
        for address in await self._addresses(target):
            try:
                return await self._post_to(address, target, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as caught:
                trouble = caught
        raise trouble or OSError("no address was found")

    async def _addresses(self, target: httpx.URL) -> Sequence[str]:
        host = target.raw_host.decode()
        port = target.port or (443 if target.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._lookups, self._resolve, host, port)
        return check_addresses(host, found, self._private_allowed, self._private_setting)

    async def _post_to(self, address: str, target: httpx.URL, headers: dict[str, str], body: bytes) -> Outcome:
        """Post to the very address that was looked at; the certificate is still to be the host's.

        A client of its own for each call: connections and cookies are kept by address, which many hosts may share.
        """
        async with (
            httpx.AsyncClient(
                verify=self._tls,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(self._answer_within_s, connect=_CONNECT_WITHIN_S),
            ) as client,
            client.stream(
                "POST",
                target.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={"sni_hostname": target.raw_host.decode()},
            ) as answer,
        ):
            if answer.status_code == httpx.codes.OK:
                return Outcome()
            followed = "; redirects are not followed" if answer.is_redirect else ""
            return Outcome(f"it answered {answer.status_code}{followed}; expected 200")


def _body_with_images(storage: Storage, payload: dict[str, Any], output: str | None) -> bytes:
    """The call's body, with ODM's `images.json` where the products have one. Blocks."""
    if output is None:
        return _body(payload, [])
    try:
        found = json.loads(storage.read(Reference.parse(output) / "images.json"))
    except (StorageFault, ValueError):
        found = None
    return _body(payload, found if isinstance(found, list) else [])


def _body(payload: dict[str, Any], images: list[object]) -> bytes:
    return json.dumps(payload | {"images": images}).encode()
