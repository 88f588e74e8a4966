"""Why an address cannot be reached: what the network said, in words that say what to look at. Pure."""

import socket
import ssl
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import httpx

_PLAIN = ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""What OpenSSL calls it when the other side answers in plain text."""


def why_unreachable(url: str, trouble: BaseException, we: str = "this router", whom: str = "the node") -> str:
    """What was wrong with a connection, and what to look at. `we` wanted to reach `whom`."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    found = list(causes(trouble))
    if any(isinstance(each, socket.gaierror) for each in found):
        return f"The name {host} is not known (DNS). Check how it is spelled, and that {we} can look it up."
    if any(isinstance(each, ssl.SSLError) for each in found):
        return f"{host}:{port} does not speak TLS with us: {_tls(found)}"
    if any(isinstance(each, ConnectionRefusedError) for each in found):
        return f"Nothing listens on port {port} of {host}. Check the port, and that {whom} runs."
    if isinstance(trouble, httpx.ConnectTimeout):
        return f"{host}:{port} does not answer in time. Check the address, and that no firewall is in between."
    if isinstance(trouble, httpx.TimeoutException | TimeoutError):
        return f"{host}:{port} took our connection, and then did not answer in time."
    told = next((str(each) for each in found if str(each)), type(trouble).__name__).rstrip(".")
    is_hung_up = isinstance(trouble, httpx.RemoteProtocolError | httpx.ReadError) and parts.scheme == "http"
    return f"The connection to {host}:{port} broke: {told}." + (
        " If it speaks TLS there, the address begins with https://." if is_hung_up else ""
    )


def causes(trouble: BaseException) -> Iterator[BaseException]:
    """An exception and all that led to it."""
    seen: set[int] = set()
    waiting = [trouble]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [cause for cause in (each.__cause__, each.__context__) if cause is not None]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _tls(found: Sequence[BaseException]) -> str:
    """What was wrong with TLS, and what to do."""
    first = next(each for each in found if isinstance(each, ssl.SSLError))
    if isinstance(first, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({first.verify_message}). Check https:// and the certificate; one of an "
            "authority of your own is trusted once SSL_CERT_FILE names that authority's."
        )
    reason = str(first.reason or first)
    if reason in _PLAIN:
        return f"it answers in plain text ({reason}). Write http:// in place of https://, or give it a certificate."
    return f"{reason}. Check https:// and the certificate."
