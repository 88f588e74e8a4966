"""What an administrator does by a click: the same services as the API's, with the one who clicked passed along.

Every request is a POST of one of our own pages (`door.is_own`); the answer is JSON: what was done, or why it was not.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.nodeodm.messages import MOST_PRIORITY
from common.nodeodm.refusals import Refused
from common.tokens import Caller, Limits
from router.access import Access
from router.api.tokens import TokenOrder
from router.browsing import TaskDesk, TaskMissing, TaskOver
from router.federated import FederatedTasks
from router.nodes import NodeBusy, NodeMissing, Nodes
from router.rights import TokenLimits
from router.usability import Examiner

_MISSING = (NodeMissing, TaskMissing)
_AGAINST = (NodeBusy, TaskOver, Refused)
Act = Callable[[Request, Caller, FormData], Awaitable[dict[str, object]]]


class _Priority(BaseModel):
    """The form of a task's priority."""

    priority: int = Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)


class _TokenForm(BaseModel):
    """The form of a new token, as a browser sends it: what is left empty is an empty text."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    name: str
    tenant: str = ""
    prefixes: str = ""
    running: str = ""
    waiting: str = ""
    images: str = ""
    priority: str = ""
    weight: str = ""

    def order(self) -> TokenOrder:
        """As the API takes it. Raises `ValidationError`."""
        limits = {name: getattr(self, name).strip() for name in ("running", "waiting", "images", "priority", "weight")}
        return TokenOrder.model_validate(
            {
                "kind": self.kind,
                "name": self.name.strip(),
                "tenant": self.tenant.strip() or "default",
                "prefixes": self.prefixes.split(),
                "limits": TokenLimits.model_validate({name: value for name, value in limits.items() if value}),
            }
        )


class Actions:
    """The actions, by what they are done to."""

    def __init__(self, nodes: Nodes, examiner: Examiner, tasks: FederatedTasks, desk: TaskDesk, access: Access) -> None:
        """The services that do it."""
        self._nodes = nodes
        self._examiner = examiner
        self._tasks = tasks
        self._desk = desk
        self._access = access

    async def node(self, request: Request, caller: Caller, form: FormData) -> dict[str, object]:
        """`POST /dashboard/nodes/{name}/{action}`."""
        name, action = request.path_params["name"], request.path_params["action"]
        match action:
            case "lock" | "unlock":
                await self._nodes.set_locked(name, action == "lock", by=caller)
            case "drain" | "undrain":
                await self._nodes.set_draining(name, action == "drain", by=caller)
            case "trust":
                await self._nodes.trust(name, by=caller)
            case "remove":
                await self._nodes.remove(name, form.get("force") == "on", by=caller)
                return {"text": f"Node {name} is removed.", "leave": "/dashboard/nodes"}
            case "test":
                return {"findings": await self._examiner.findings(name)}
            case _:
                raise NodeMissing(f"There is no action {action!r} for nodes.")
        return {"text": _DONE[action].format(name)}

    async def task(self, request: Request, caller: Caller, form: FormData) -> dict[str, object]:
        """`POST /dashboard/tasks/{uuid}/{action}`."""
        uuid, action = request.path_params["uuid"], request.path_params["action"]
        match action:
            case "cancel":
                await self._tasks.cancel(caller, uuid)
            case "restart":
                await self._tasks.restart(caller, uuid, None)
            case "remove":
                await self._tasks.remove(caller, uuid, form.get("output") == "on")
                return {"text": "The task is removed.", "leave": "/dashboard/tasks"}
            case "priority":
                wanted = _Priority.model_validate({"priority": form.get("priority")})
                await self._desk.set_priority(uuid, wanted.priority, by=caller)
                return {"text": f"The priority is {wanted.priority}."}
            case _:
                raise TaskMissing(f"There is no action {action!r} for tasks.")
        return {"text": _DONE[action]}

    async def make_token(self, request: Request, caller: Caller, form: FormData) -> dict[str, object]:
        """`POST /dashboard/tokens`: the token is told this once."""
        del request
        order = _TokenForm.model_validate(dict(form)).order()
        limits = Limits(**order.limits.model_dump())
        token = await self._access.make(order.kind, order.name, order.tenant, order.prefixes, limits, by=caller)
        return {"text": f"The {order.kind} token {order.name} is made.", "token": token}

    async def revoke_token(self, request: Request, caller: Caller, form: FormData) -> dict[str, object]:
        """`POST /dashboard/tokens/{name}/revoke`."""
        del form
        name = request.path_params["name"]
        if not await self._access.revoke(name, by=caller):
            raise NodeMissing(f"There is no token {name}.")
        return {"text": f"The token {name} is revoked."}


_DONE = {
    "lock": "Node {} is locked: it gets no work until it is unlocked.",
    "unlock": "Node {} is unlocked.",
    "drain": "Node {} drains: what runs there ends there.",
    "undrain": "Node {} gets work again.",
    "trust": "Node {} is trusted again.",
    "cancel": "The task is canceled.",
    "restart": "The task waits for its next attempt.",
}


async def answer(act: Act, request: Request, caller: Caller) -> Response:
    """Do it, and say what became of it."""
    try:
        async with request.form(max_files=0, max_fields=20) as form:
            return JSONResponse(await act(request, caller, form))
    except _MISSING as missing:
        return refusal(str(missing), HTTPStatus.NOT_FOUND)
    except _AGAINST as against:
        return refusal(str(against), HTTPStatus.CONFLICT)
    except ValidationError as wrong:
        told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong.errors(include_input=False)]
        return refusal("; ".join(told), HTTPStatus.UNPROCESSABLE_ENTITY)


def refusal(problem: str, status: int) -> Response:
    """Why it was not done."""
    return JSONResponse({"error": problem}, status)
