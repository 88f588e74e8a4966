"""A stand-in for tailscaled: its LocalAPI on a real unix socket, answering as Tailscale documents it."""

import json
import secrets
import socketserver
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.waiting import wait_until

SUFFIX = "tail1234.ts.net"


def status(name: str, *addresses: str, state: str = "Running", tags: tuple[str, ...] = (), **changes: Any) -> Any:
    """What `/localapi/v0/status?peers=false` says of a machine in good health, but for what a test changes."""
    document = {
        "Version": "1.90.6-t0123456789",
        "TUN": True,
        "BackendState": state,
        "HaveNodeKey": True,
        "AuthURL": "",
        "TailscaleIPs": list(addresses),
        "Self": {
            "ID": "n1CNTRL",
            "PublicKey": "nodekey:00",
            "HostName": name,
            "DNSName": f"{name}.{SUFFIX}.",
            "OS": "linux",
            "UserID": 1,
            "TailscaleIPs": list(addresses),
            "Online": True,
            "KeyExpiry": "2099-01-01T00:00:00Z",
        },
        "Health": [],
        "MagicDNSSuffix": SUFFIX,
        "CurrentTailnet": {"Name": "example.org", "MagicDNSSuffix": SUFFIX, "MagicDNSEnabled": True},
        "CertDomains": None,
        "Peer": None,
        "User": None,
    }
    if tags:
        document["Self"]["Tags"] = list(tags)  # type: ignore[index]  # a dictionary
    return document | changes


def whois(
    name: str, tags: tuple[str, ...] = (), login: str = "", grants: Mapping[str, list[object]] | None = None
) -> Any:
    """What `/localapi/v0/whois` says of a peer. A tagged machine's user is a placeholder."""
    node = {"ID": 7, "StableID": f"n{secrets.token_hex(4)}CNTRL", "Name": f"{name}.{SUFFIX}.", "ComputedName": name}
    profile = {"ID": 3, "LoginName": login or "tagged-devices", "DisplayName": login or "Tagged Devices"}
    return {
        "Node": node | ({"Tags": list(tags)} if tags else {}),
        "UserProfile": profile,
        "CapMap": dict(grants) if grants is not None else None,
    }


@dataclass
class StandIn:
    """One tailscaled. What it says may be changed while it runs."""

    path: Path
    status: Any
    peers: dict[str, Any] = field(default_factory=dict)
    """Whois documents, by IP (as in kernel mode), or by exact IP:port (as in userspace mode)."""
    refuses: bool = False
    """As to users who may not read it."""
    silent: threading.Event | None = None
    """Set: answers come only once this is."""
    raw: bytes | None = None
    """Answered in place of everything."""
    asked: list[str] = field(default_factory=list)
    """The requests that came."""

    def answer(self, target: str, host: str) -> tuple[int, bytes]:
        """Status and body."""
        self.asked.append(target)
        if self.silent is not None:
            self.silent.wait(30)
        if host not in ("", "local-tailscaled.sock"):
            return 403, b"invalid localapi request\n"
        if self.refuses:
            return 403, b"status access denied\n"
        if self.raw is not None:
            return 200, self.raw
        parts = urlsplit(target)
        if parts.path == "/localapi/v0/status":
            return 200, json.dumps(self.status).encode()
        if parts.path == "/localapi/v0/whois":
            return self._whois(parse_qs(parts.query).get("addr", [""])[0])
        return 404, b"404 page not found\n"

    def _whois(self, address: str) -> tuple[int, bytes]:
        ip, _, port = address.rpartition(":")
        if not ip or not port.isdigit():
            return 400, b"invalid 'addr' parameter\n"
        found = self.peers.get(address) or self.peers.get(ip.strip("[]"))
        return (404, b"no match for IP:port\n") if found is None else (200, json.dumps(found).encode())


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked a silent one has mostly gone when it answers at last."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def tailscaled(path: Path, says: Any, peers: Mapping[str, Any] | None = None) -> Iterator[StandIn]:
    """A tailscaled at this socket."""
    standin = StandIn(path, says, dict(peers or {}))

    class Local(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = standin.answer(self.path, self.headers.get("host", ""))
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Nobody reads it."""

    server = _Server(str(path), Local)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)
        wait_until(lambda: not thread.is_alive(), "the stand-in of tailscaled to end")
