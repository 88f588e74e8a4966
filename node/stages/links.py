"""`zipurl` over http(s) → a file, fetched where the run is (contract 5).

The URL is a stranger's: each hop of its redirects is looked up, judged and pinned before anything is sent (as webhooks
are, `common.addresses`). It may hold a signature: texts name its host and nothing else of it (I9).
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import tenacity

from common.addresses import AddressRefused, Resolve, addresses_of, check_addresses
from common.webhooks import shown
from node.stages.archives import InputUnusable, Quota, Say

PRIVATE_SETTING = "SCALEODM_INPUT_PRIVATE"
_MOST_HOPS = 5
_MOST_TRIES = 5
_CONNECT_WITHIN_S = 10.0
_READ_WITHIN_S = 60.0
_WITHIN_S = 12 * 3600.0
_BLOCK = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others in a while."""


class _Passing(Exception):
    """It may go better in a while."""


@dataclass(frozen=True, slots=True)
class Links:
    """How links are followed."""

    private_allowed: bool
    most_bytes: int
    resolve: Resolve = addresses_of
    tls: ssl.SSLContext | None = None
    longest_wait_s: float = 20.0
    """Between two tries."""

    def fetch(self, url: str, path: Path, quota: Quota, say: Say) -> None:
        """Bring what the URL leads to into a file. Raises `InputUnusable`, `DiskTooSmall`; neither holds the URL."""

        def told(state: tenacity.RetryCallState) -> None:
            trouble = state.outcome.exception() if state.outcome else None
            say(f"[WARNING] {trouble} Trying again.")

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            wait=tenacity.wait_exponential_jitter(max=self.longest_wait_s, jitter=min(1.0, self.longest_wait_s)),
            stop=tenacity.stop_after_attempt(_MOST_TRIES),
            before_sleep=told,
            reraise=True,
        )
        until = time.monotonic() + _WITHIN_S
        try:
            again(self._follow, url, path, quota, until)
        except _Passing as trouble:
            raise InputUnusable(f"{trouble} It was tried {_MOST_TRIES} times; try again later.") from None

    def _follow(self, url: str, path: Path, quota: Quota, until: float) -> None:
        target = _web_address(url)
        for _ in range(_MOST_HOPS + 1):
            further = self._get(target, lambda answer: self._keep(answer, path, quota, until))
            if further is None:
                return
            try:
                target = _web_address(str(target.join(further)))
            except (httpx.InvalidURL, ValueError):
                raise InputUnusable(f"zipurl: {shown(str(target))} redirects to what is no URL.") from None
        raise InputUnusable(f"zipurl: {shown(url)} redirects more than {_MOST_HOPS} times. Give the address itself.")

    def _get(self, target: httpx.URL, keep: Callable[[httpx.Response], None]) -> str | None:
        """One hop: keeps what comes, or gives where it leads on to."""
        host = shown(str(target))
        trouble = "has no address"
        for address in self._addresses(target):
            try:
                return self._get_from(address, target, keep)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                trouble = f"cannot be reached ({type(failed).__name__})"
            except (httpx.TransportError, httpx.StreamError) as failed:
                raise _Passing(f"zipurl: {host} broke off ({type(failed).__name__}).") from None
        raise _Passing(f"zipurl: {host} {trouble}.")

    def _addresses(self, target: httpx.URL) -> list[str]:
        host = target.raw_host.decode()
        port = target.port or (443 if target.scheme == "https" else 80)
        try:
            found = self.resolve(host, port)
            return list(check_addresses(host, found, self.private_allowed, PRIVATE_SETTING))
        except AddressRefused as refused:
            raise InputUnusable(f"zipurl may not lead there: {refused}.") from None
        except (OSError, UnicodeError) as failed:
            raise _Passing(f"zipurl: {host} has no address ({failed}).") from None

    def _get_from(self, address: str, target: httpx.URL, keep: Callable[[httpx.Response], None]) -> str | None:
        """Ask the very address that was judged; the certificate is still to be the host's."""
        headers = {
            "Host": target.netloc.decode(),
            "User-Agent": "ScaleODM",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        with (
            httpx.Client(
                verify=self.tls or httpx.create_ssl_context(),
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(_READ_WITHIN_S, connect=_CONNECT_WITHIN_S),
            ) as client,
            client.stream(
                "GET",
                target.copy_with(host=address),
                headers=headers,
                extensions={"sni_hostname": target.raw_host.decode()},
            ) as answer,
        ):
            if answer.is_redirect and answer.headers.get("location"):
                return str(answer.headers["location"])
            _check_status(answer.status_code, shown(str(target)))
            keep(answer)
            return None

    def _keep(self, answer: httpx.Response, path: Path, quota: Quota, until: float) -> None:
        length = answer.headers.get("content-length", "")
        expected = int(length) if length.isascii() and length.isdigit() else 0
        self._check_size(expected)
        quota.check_disk(expected)
        came = 0
        with path.open("wb") as file:
            # Raw: what a server compresses on its way is not unpacked before it is counted.
            for block in answer.iter_raw(_BLOCK):
                came += len(block)
                self._check_size(came)
                if came % (64 * _BLOCK) < len(block):
                    quota.check_disk(_BLOCK)
                if time.monotonic() > until:
                    raise InputUnusable(f"zipurl: it has not come within {_WITHIN_S / 3600:.0f} h.")
                file.write(block)

    def _check_size(self, count: int) -> None:
        if count > self.most_bytes:
            raise InputUnusable(
                f"zipurl: what it leads to has more than {self.most_bytes / 2**30:g} GiB, which is the most that is "
                "fetched. Make several tasks of it, or ask the administrator for more (SCALEODM_INPUT_MOST_GIB)."
            )


def _web_address(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise InputUnusable("zipurl is no URL that can be read; expected https://host/images.zip.") from None
    if target.scheme not in ("http", "https") or not target.host or not 0 < (target.port or 443) < 2**16:
        raise InputUnusable(
            f"zipurl leads to a {target.scheme or 'nameless'} address; expected https://host/images.zip."
        )
    return target


def _check_status(status: int, host: str) -> None:
    if status in _PASSING:
        raise _Passing(f"zipurl: {host} answered {status}.")
    if status != httpx.codes.OK:
        hint = "the link may have expired, or need a login" if status in (401, 403, 404, 410) else "expected 200"
        raise InputUnusable(f"zipurl: {host} answered {status}; {hint}. Check it in a browser, and submit again.")
