"""The router's callers: tokens in Postgres, the first ones from the settings, nodes by derived secrets."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from common.families import claimed_family, is_current, is_token_of
from common.settings import Switch
from common.tasks import Task
from common.tokens import UNLIMITED, Caller, Gate, Kind, Limits, OpenGate, TokenGate, derived, hashed, new_token
from router import queries
from router.database import Database
from router.events import Action, Actor, Subject, record
from router.settings import RouterSettings
from router.tables import TokenRow


class SealBroken(Exception):
    """A sealed token cannot be opened."""


class Access:
    """Who may call this router, and how much of it."""

    def __init__(
        self, settings: RouterSettings, database: Database, known_task: Callable[[str], Task | None] = lambda _: None
    ) -> None:
        """Nobody until `load`. `known_task`: a task by its uuid, from memory."""
        self._settings = settings
        self._database = database
        self._known = TokenGate({})
        self._hashes: set[str] = set()
        self._limits: dict[str, Limits] = {}
        self._weights: dict[str, float] = {}
        self._known_task = known_task
        self.gate: Gate = OpenGate(self) if settings.auth is Switch.OFF else self

    async def start(self) -> None:
        """Put the settings' tokens on record and read all there are."""
        async with self._database.transaction() as session:
            for row in self._first_tokens():
                await queries.keep_token(session, row)
        await self.load()

    async def load(self) -> None:
        """Read every token: others may have made some, or ended some."""
        async with self._database.transaction() as session:
            rows = await queries.token_rows(session)
        for ended in self._hashes - {row.hash for row in rows}:
            self._known.revoke(ended)
        self._hashes = {row.hash for row in rows}
        self._limits = {row.name: Limits(**row.limits) for row in rows}
        self._weights = {}
        for row in rows:
            self._known.admit(row.hash, _caller(row))
            if row.kind == Kind.USER:
                weight = self._limits[row.name].weight
                self._weights[row.tenant] = max(weight, self._weights.get(row.tenant, 0.0))
        for tenant, weight in self._settings.rights.weights():
            self._weights[tenant] = max(weight, self._weights.get(tenant, 0.0))

    def caller(self, token: str | None) -> Caller | None:
        """Who holds this token, answered from memory."""
        known = self._known.caller(token)
        family = claimed_family(token) if known is None and token else None
        if family is None or token is None or not is_token_of(token, family, self.node_secret(family.node_id)):
            return known
        parent = self._known_task(family.uuid)
        if parent is None or not is_current(family, parent):
            return None
        limits = self.limits(parent.token)
        return Caller(Kind.PART, parent.token, parent.tenant, limits=limits, family=str(family))

    def holder(self, token_hash: str) -> Caller | None:
        """Who holds the token with this hash, as long as it is not revoked."""
        return self._known.holder(token_hash)

    def limits(self, token: str) -> Limits:
        """What the tasks of the token, or of the tailnet's login or tag, with this name may take."""
        right = self._settings.tailnet_rights.get(token)
        return self._limits.get(token) or (right.limits.known() if right else UNLIMITED)

    def most_images(self, token: str = "") -> int | None:
        """How many images a task may have, of this token or of any; None means as many as nodes take."""
        limits = (self.limits(token).images, self._settings.max_images)
        return min((each for each in limits if each is not None), default=None)

    def weights(self) -> Mapping[str, float]:
        """Every tenant's share beside others."""
        return self._weights

    def _first_tokens(self) -> list[TokenRow]:
        given = [
            (Kind.USER, self._settings.user_token),
            (Kind.NODE, self._settings.node_token),
            (Kind.ADMIN, self._settings.admin_token),
        ]
        return [
            _row(kind, f"first {kind}", "default", [], UNLIMITED, token.get_secret_value())
            for kind, token in given
            if token
        ]

    async def make(
        self, kind: Kind, name: str, tenant: str, prefixes: list[str], limits: Limits = UNLIMITED, *, by: Caller
    ) -> str:
        """A new token. It is told once, here, and can never be read again. One of the same name ends."""
        token = new_token()
        row = _row(kind, name, tenant, prefixes, limits, token)
        async with self._database.transaction() as session:
            is_new = await queries.token_named(session, name) is None
            action, what = (Action.TOKEN_CREATED, "made") if is_new else (Action.TOKEN_CHANGED, "made anew")
            told = row.model_dump(include={"kind", "tenant", "prefixes", "limits"})
            text = f"The {kind} token {name} was {what}."
            record(session, Actor.of(by), action, Subject.token(name), text, **told)
            await queries.keep_token(session, row)
        await self.load()
        return token

    async def revoke(self, name: str, *, by: Caller) -> bool:
        """End a token; false when there was none of that name."""
        async with self._database.transaction() as session:
            ended = await queries.drop_token(session, name)
            for row in ended:
                text = f"The {row.kind} token {name} was ended."
                record(session, Actor.of(by), Action.TOKEN_REVOKED, Subject.token(name), text, kind=row.kind)
        await self.load()
        return bool(ended)

    async def documents(self) -> list[dict[str, Any]]:
        """Every token, without what opens."""
        async with self._database.transaction() as session:
            rows = await queries.token_rows(session)
        return [row.model_dump(include={"name", "kind", "tenant", "prefixes", "limits", "created_at"}) for row in rows]

    def node_secret(self, node_id: str) -> str:
        """The secret that router and node share: always the same for a node, so it is stored nowhere."""
        return derived(self._settings.secret_key.get_secret_value(), f"node {node_id}")

    def seal(self, token: str) -> str:
        """A token that opens somebody else's door, as it may be stored."""
        return self._fernet().encrypt(token.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """The token again. Raises `SealBroken` when the secret key has changed since."""
        try:
            return self._fernet().decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SealBroken(
                "Its token was sealed with another SCALEODM_ROUTER_SECRET_KEY; add the node again with its token."
            ) from None

    def _fernet(self) -> Fernet:
        key = derived(self._settings.secret_key.get_secret_value(), "tokens of foreign nodes")
        return Fernet(base64.urlsafe_b64encode(bytes.fromhex(key)))

    def foreign_mark(self, node_id: str) -> str:
        """Twelve hexadecimal digits by which our tasks on a foreign node are known among others."""
        return derived(self._settings.secret_key.get_secret_value(), f"tasks on foreign node {node_id}")[:12]

    def admit_node(self, node_id: str) -> None:
        """Let a node's heartbeats in."""
        self._known.admit(hashed(self.node_secret(node_id)), Caller(Kind.NODE, node_id))


def _row(kind: Kind, name: str, tenant: str, prefixes: list[str], limits: Limits, token: str) -> TokenRow:
    return TokenRow(
        hash=hashed(token), kind=kind.value, name=name, tenant=tenant, prefixes=prefixes, limits=asdict(limits)
    )


def _caller(row: TokenRow) -> Caller:
    return Caller(Kind(row.kind), row.name, row.tenant, tuple(row.prefixes), Limits(**row.limits))
