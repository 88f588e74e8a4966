"""The administration of nodes: see them, add foreign ones, drain, lock, remove; and where a task would go."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from common.addresses import readable
from common.tokens import Kind
from router.api.guard import ANSWERS, Guard, Text, answers
from router.foreign import Asked, NodeUnusable
from router.nodes import NodeBusy, NodeMissing, Nodes
from router.placement import Need
from router.registry import NameTaken


class DryRun(BaseModel):
    """A task that somebody may submit."""

    images_count: int = Field(default=0, ge=0, alias="imagesCount")
    options: list[str] = Field(default_factory=list)
    """Names of its options."""
    nodes: list[str] = Field(default_factory=list)
    avoid_nodes: list[str] = Field(default_factory=list, alias="avoidNodes")
    node_labels: dict[str, str] = Field(default_factory=dict, alias="nodeLabels")

    def need(self) -> Need:
        """As placement takes it."""
        return Need(
            images_count=self.images_count,
            options=frozenset(self.options),
            only=frozenset(self.nodes),
            avoid=frozenset(self.avoid_nodes),
            labels=frozenset(self.node_labels.items()),
        )


class ForeignOrder(BaseModel):
    """A foreign node to be added: a NodeODM, a ClusterODM, another ScaleODM."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    url: Annotated[str, AfterValidator(readable)] = Field(pattern=r"^https?://[^\s/?#@]+[^\s?#@]*$", max_length=500)
    """Without its token, which is given apart."""
    token: SecretStr | None = Field(default=None, min_length=1, max_length=4096)
    slots: int | None = Field(default=None, ge=1, le=10_000)
    """Tasks that it runs at once; unset means that it says so itself."""
    labels: dict[Text, Text] = Field(default_factory=dict)
    reads_s3: bool | None = Field(default=None, alias="readsS3")
    """Whether it takes a task by S3 reference, and reaches the same S3; unset means that it is found out."""

    def asked(self) -> Asked:
        """As it is added."""
        token = self.token.get_secret_value() if self.token is not None else None
        return Asked(self.name, self.url, token, self.slots, self.labels, self.reads_s3)


async def _foreign_order(request: Request) -> ForeignOrder:
    """The order in a request. Read by hand: the framework would repeat a wrong one in its answer, token and all."""
    try:
        return ForeignOrder.model_validate_json(await request.body())
    except ValidationError as wrong:
        told = [
            f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in wrong.errors(include_input=False)
        ]
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, "; ".join(told)) from None


def node_routes(nodes: Nodes, guard: Guard) -> APIRouter:
    """The routes below `/admin/nodes`, and `/admin/placement`."""
    routes = APIRouter(prefix="/admin", tags=["administration"], responses=answers(400, 404, 409, 413))

    @routes.get("/nodes")
    async def every_node(request: Request) -> list[dict[str, Any]]:
        """Every node: how it stands, what it has free."""
        guard.caller(request)
        return await nodes.documents()

    @routes.post("/nodes", responses={422: ANSWERS[422]})
    async def add(request: Request) -> dict[str, Any]:
        """Add a foreign node, or change what is known of it; what is wrong with it is told at once."""
        caller = guard.caller(request)
        order = await _foreign_order(request)
        with _told():
            return await nodes.add_foreign(order.asked(), by=caller)

    @routes.post("/nodes/{name}/drain")
    async def drain(request: Request, name: str) -> dict[str, Any]:
        """No new work; what runs there ends there."""
        caller = guard.caller(request)
        with _told():
            return await nodes.set_draining(name, True, by=caller)

    @routes.post("/nodes/{name}/undrain")
    async def undrain(request: Request, name: str) -> dict[str, Any]:
        """Work as before."""
        caller = guard.caller(request)
        with _told():
            return await nodes.set_draining(name, False, by=caller)

    @routes.post("/nodes/{name}/lock")
    async def lock(request: Request, name: str) -> dict[str, Any]:
        """No new work until it is unlocked."""
        caller = guard.caller(request)
        with _told():
            return await nodes.set_locked(name, True, by=caller)

    @routes.post("/nodes/{name}/unlock")
    async def unlock(request: Request, name: str) -> dict[str, Any]:
        """Work as before."""
        caller = guard.caller(request)
        with _told():
            return await nodes.set_locked(name, False, by=caller)

    @routes.post("/nodes/{name}/trust")
    async def trust(request: Request, name: str) -> dict[str, Any]:
        """End its quarantine."""
        caller = guard.caller(request)
        with _told():
            return await nodes.trust(name, by=caller)

    @routes.delete("/nodes/{name}")
    async def remove(request: Request, name: str, force: bool = False) -> dict[str, bool]:
        """Take a node out of the federation; with work only by `force=true`."""
        caller = guard.caller(request)
        with _told():
            await nodes.remove(name, force, by=caller)
        return {"removed": True}

    @routes.post("/placement")
    async def dry_run(request: Request, body: DryRun) -> dict[str, Any]:
        """Where such a task would go now, and why; nothing is reserved."""
        guard.caller(request, Kind.USER)
        choice = await nodes.dry_run(body.need())
        names = {row["id"]: row["name"] for row in await nodes.documents()}
        node = names.get(choice.node_id) if choice.node_id is not None else None
        return {"node": node, "text": choice.text, "reasons": choice.document()}

    return routes


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except NodeMissing as missing:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(missing)) from None
    except (NodeBusy, NameTaken) as busy:
        raise HTTPException(status.HTTP_409_CONFLICT, str(busy)) from None
    except NodeUnusable as unusable:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, str(unusable)) from None
