"""Who calls: tokens, kept hashed, and what each kind of caller may see (design 10).

A token is 32 random bytes. Being random, it needs no slow hash: SHA-256 is enough to make the stored form
useless to whoever reads it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

TOKEN_REFUSED = "Invalid authentication token: token does not match."  # noqa: S105 - a sentence (contract 1.7)


class Kind(StrEnum):
    """What a token opens."""

    USER = "user"
    """The NodeODM API, for the tasks of one tenant."""
    NODE = "node"
    """Joining the federation, and nothing else."""
    ADMIN = "admin"
    """Everything a user may, for every tenant, and the administration."""
    ROUTER = "router"
    """On a node: the router that the node has joined."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose token was known."""

    kind: Kind
    name: str
    tenant: str = ""
    prefixes: tuple[str, ...] = ()
    """`s3://` prefixes that this caller's tasks may read and write; none named means no limit."""

    def may_use_tasks(self) -> bool:
        """Whether the NodeODM API is open to this caller."""
        return self.kind is not Kind.NODE

    def may_see(self, tenant: str) -> bool:
        """Whether a task of `tenant` exists for this caller (I12)."""
        return self.kind in (Kind.ADMIN, Kind.ROUTER) or (self.kind is Kind.USER and tenant == self.tenant)


class Gate(Protocol):
    """Knows the tokens of one program."""

    def caller(self, token: str | None) -> Caller | None:
        """Who holds this token, answered from memory; None for nobody."""
        ...


def new_token() -> str:
    """A fresh random token, safe in a URL."""
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """The form in which a token is stored: SHA-256, hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def derived(key: str, purpose: str) -> str:
    """A secret that `key` and `purpose` always give again, so that it need not be stored in the clear."""
    return hmac.new(key.encode(), purpose.encode(), hashlib.sha256).hexdigest()


class TokenGate:
    """A gate over a table of hashed tokens."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        """`callers` by hashed token."""
        self._callers = dict(callers)

    def caller(self, token: str | None) -> Caller | None:
        """Who holds this token."""
        return self._callers.get(hashed(token)) if token else None

    def admit(self, token_hash: str, caller: Caller) -> None:
        """From now on the token with this hash opens."""
        self._callers[token_hash] = caller

    def revoke(self, token_hash: str) -> None:
        """From now on the token with this hash opens nothing."""
        self._callers.pop(token_hash, None)


class OpenGate:
    """Authentication switched off on purpose: whoever the inner gate does not know may do everything as well."""

    _ANYBODY = Caller(Kind.ADMIN, "anybody", tenant="public")

    def __init__(self, inner: Gate) -> None:
        """`inner` still tells who is who: a router must be known as a router."""
        self._inner = inner

    def caller(self, token: str | None) -> Caller | None:
        """Somebody known, or anybody; any token is let pass (contract 1.7)."""
        return self._inner.caller(token) or self._ANYBODY
