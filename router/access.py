"""The router's callers: tokens in Postgres, the first ones from the settings, nodes by derived secrets."""

from common.settings import Switch
from common.tokens import Caller, Gate, Kind, OpenGate, TokenGate, derived, hashed, new_token
from router import queries
from router.database import Database
from router.settings import RouterSettings
from router.tables import TokenRow


class Access:
    """Who may call this router."""

    def __init__(self, settings: RouterSettings, database: Database) -> None:
        """Nobody until `load`."""
        self._settings = settings
        self._database = database
        self._known = TokenGate({})
        self.gate: Gate = OpenGate(self._known) if settings.auth is Switch.OFF else self._known

    async def load(self) -> None:
        """Put the settings' tokens on record and read all there are."""
        async with self._database.transaction() as session:
            for row in self._first_tokens():
                await queries.keep_token(session, row)
            rows = await queries.token_rows(session)
            nodes = await queries.node_rows(session)
        for row in rows:
            self._known.admit(row.hash, _caller(row))
        for node in nodes:
            self.admit_node(node.id)

    def _first_tokens(self) -> list[TokenRow]:
        given = [
            (Kind.USER, self._settings.user_token),
            (Kind.NODE, self._settings.node_token),
            (Kind.ADMIN, self._settings.admin_token),
        ]
        return [_row(kind, f"first {kind}", "default", [], token.get_secret_value()) for kind, token in given if token]

    async def make(self, kind: Kind, name: str, tenant: str, prefixes: list[str]) -> str:
        """A new token. It is told once, here, and can never be read again."""
        token = new_token()
        row = _row(kind, name, tenant, prefixes, token)
        await self.revoke(name)
        async with self._database.transaction() as session:
            await queries.keep_token(session, row)
        self._known.admit(row.hash, _caller(row))
        return token

    async def revoke(self, name: str) -> bool:
        """End a token; false when there was none of that name."""
        async with self._database.transaction() as session:
            ended = await queries.drop_token(session, name)
        for row in ended:
            self._known.revoke(row.hash)
        return bool(ended)

    def node_secret(self, node_id: str) -> str:
        """The secret that router and node share: always the same for a node, so it is stored nowhere."""
        return derived(self._settings.secret_key.get_secret_value(), f"node {node_id}")

    def admit_node(self, node_id: str) -> None:
        """Let a node's heartbeats in."""
        self._known.admit(hashed(self.node_secret(node_id)), Caller(Kind.NODE, node_id))


def _row(kind: Kind, name: str, tenant: str, prefixes: list[str], token: str) -> TokenRow:
    return TokenRow(hash=hashed(token), kind=kind.value, name=name, tenant=tenant, prefixes=prefixes)


def _caller(row: TokenRow) -> Caller:
    return Caller(Kind(row.kind), row.name, row.tenant, tuple(row.prefixes))
