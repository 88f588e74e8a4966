"""What tags and logins of a tailnet may do on this router. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.references import Reference, ReferenceUnreadable
from common.tailnet import Peer
from common.tokens import UNLIMITED, Caller, Kind, Limits

PLACEHOLDER = "tagged-devices"
"""The login that tailscaled tells of every tagged machine."""


class TokenLimits(BaseModel):
    """What the tasks of a token, or of a right, may take; what is not named has no limit."""

    model_config = ConfigDict(frozen=True)

    running: int | None = Field(default=None, ge=0)
    """Tasks at once."""
    waiting: int | None = Field(default=None, ge=0)
    """Tasks that may wait; one more is refused."""
    images: int | None = Field(default=None, ge=1)
    """Images of one task."""
    priority: int = Field(default=0, ge=-100, le=100)
    """The highest priority that it may ask for."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Its tenant's share beside other tenants."""

    def known(self) -> Limits:
        """As the queue knows them."""
        return Limits(**self.model_dump())


class Right(BaseModel):
    """What somebody may do: as `"node"`, `"admin"`, `"user"`, `"user:TENANT"`, or as an object with S3 prefixes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[Kind.USER, Kind.NODE, Kind.ADMIN]
    tenant: str = ""
    """Whose tasks a user sees; unset means their own alone."""
    prefixes: tuple[str, ...] = ()
    """`s3://` prefixes that a user's tasks may read and write; none means no limit."""
    limits: TokenLimits = Field(default_factory=TokenLimits)
    """What a user's tasks may take."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:  # noqa: ANN401 - whatever stands in the setting
        if not isinstance(value, str):
            return value
        kind, _, tenant = value.partition(":")
        return {"kind": kind, "tenant": tenant}

    @model_validator(mode="after")
    def _check(self) -> "Right":
        if self.kind is not Kind.USER and (self.tenant or self.prefixes or self.limits.known() != UNLIMITED):
            raise ValueError(
                f"a right of kind {self.kind} has no tenant, prefixes or limits; only one of kind user has"
            )
        try:
            for each in self.prefixes:
                Reference.parse(each)
        except ReferenceUnreadable as unreadable:
            raise ValueError(str(unreadable)) from None
        return self


@dataclass(frozen=True, slots=True)
class Rights:
    """Who on the tailnet may do what."""

    by_name: Mapping[str, Right]
    """By tag or login."""
    capability: str | None = None
    """App capability whose grants carry further rights."""

    @property
    def are_given(self) -> bool:
        """Whether anybody has one."""
        return bool(self.by_name) or self.capability is not None

    def weights(self) -> list[tuple[str, float]]:
        """Shares of tenants, as the settings give them."""
        users = [(name, right) for name, right in self.by_name.items() if right.kind is Kind.USER]
        return [(right.tenant or name, right.limits.weight) for name, right in users]

    def callers(self, peer: Peer) -> tuple[Caller, ...]:
        """Everything that this peer may be here, what the settings say first."""
        named = [(name, self.by_name[name]) for name in peer.known_by if name in self.by_name]
        granted = [(peer.known_by[0] if peer.known_by else peer.name, right) for right in self._granted(peer)]
        return tuple(_caller(peer, name, right) for name, right in named + granted)

    def _granted(self, peer: Peer) -> list[Right]:
        found = []
        for each in peer.grants.get(self.capability or "", ()):
            try:
                right = Right.model_validate(each)
            except ValidationError:
                # The tailnet's policy is written elsewhere: one entry that cannot be read takes nothing from others.
                continue
            # Limits are looked up while tasks wait, and nobody is there to ask: the settings alone have them.
            found += [right] if right.limits.known() == UNLIMITED else []
        return found

    def why_none(self, peer: Peer) -> str:
        """What to tell a peer that has none."""
        unreadable = len(peer.grants.get(self.capability or "", ()))
        if unreadable:
            return (
                f"The tailnet grants {peer} {self.capability} in words that are no right here; expected such as "
                '{"kind": "node"}.'
            )
        return (
            f"The tailnet knows you as {peer}, and nothing of that has a right here. An administrator of this router "
            "gives it one in SCALEODM_ROUTER_TAILNET_RIGHTS; or send a token."
        )


def _caller(peer: Peer, known_by: str, right: Right) -> Caller:
    if right.kind is not Kind.USER:
        return Caller(right.kind, peer.name if peer.tags else known_by, tailnet=True)
    tenant = right.tenant or known_by
    return Caller(Kind.USER, known_by, tenant, right.prefixes, right.limits.known(), tailnet=True)
