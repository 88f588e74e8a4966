"""Who calls: tokens, kept hashed, and what each kind of caller may see (design 10).

A token is 32 random bytes. Being random, it needs no slow hash: SHA-256 is enough to make the stored form
useless to whoever reads it.
"""

import base64
import binascii
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
    PART = "part"
    """On a router: one attempt of a split task, which sends parts of it. Nobody makes such a token: it is derived."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a token's tasks may take of a federation. None means no limit."""

    running: int | None = None
    """Tasks at once; more wait, however many slots are free."""
    waiting: int | None = None
    """Tasks that may wait; one more is refused."""
    images: int | None = None
    """Images of one task."""
    priority: int = 0
    """The highest priority that its tasks may ask for."""
    weight: float = 1.0
    """Its tenant's share of the slots beside other tenants; of several tokens of a tenant the greatest counts."""


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose token was known."""

    kind: Kind
    name: str
    tenant: str = ""
    prefixes: tuple[str, ...] = ()
    """`s3://` prefixes that this caller's tasks may read and write; none named means no limit."""
    limits: Limits = UNLIMITED
    family: str = ""
    """Of a caller of kind `part`: whose parts it may send, see, end and fetch, and nothing else."""
    tailnet: bool = False
    """Known by its tailnet login, which is its name, and not by a token."""

    def may_use_tasks(self) -> bool:
        """Whether the NodeODM API is open to this caller."""
        return self.kind is not Kind.NODE

    def may_see(self, tenant: str, family: str = "") -> bool:
        """Whether a task of `tenant` exists for this caller (I12); `family`: of which split task it is a part."""
        if self.kind is Kind.PART:
            return bool(family) and family == self.family
        return self.kind in (Kind.ADMIN, Kind.ROUTER) or (self.kind is Kind.USER and tenant == self.tenant)


class Gate(Protocol):
    """Knows the tokens of one program."""

    def caller(self, token: str | None) -> Caller | None:
        """Who holds this token, answered from memory; None for nobody."""
        ...


def token_in(authorization: str) -> str | None:
    """The token in a header `Authorization`: as a bearer, or as the password of whatever user."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


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
        return self.holder(hashed(token)) if token else None

    def holder(self, token_hash: str) -> Caller | None:
        """Who holds the token with this hash."""
        return self._callers.get(token_hash)

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
