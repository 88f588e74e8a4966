"""What stands about the NodeODM API's routes in `/openapi.json`: what each takes, and what each may answer. Pure.

The handlers read requests by hand (contract 1), so a framework cannot find this out by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    """An answer as it is described; it is never built from these classes."""

    model_config = ConfigDict(extra="forbid")


class Error(_Answer):
    """A refusal. It comes with status 200, as NodeODM has it (contract 1.3)."""

    error: str
    success: Literal[False] | None = None
    """Only of cancel, remove and restart."""
    noRetry: bool | None = None  # noqa: N815 - the name on the wire
    """The same request can never succeed."""


class Response(_Answer):
    """It is done."""

    success: Literal[True]


class NodeInfo(_Answer):
    """What stands here, and what it has. Memory in bytes."""

    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    taskQueueCount: int  # noqa: N815 - the names on the wire
    totalMemory: int  # noqa: N815
    availableMemory: int  # noqa: N815
    cpuCores: int  # noqa: N815
    maxImages: int | None  # noqa: N815
    """None means no limit."""
    maxParallelTasks: int  # noqa: N815
    engineVersion: str = Field(max_length=32)  # noqa: N815
    engine: str


class TaskOption(_Answer):
    """One option of the engine."""

    name: str
    type: Literal["int", "float", "string", "bool", "enum"]
    value: str
    """The default."""
    domain: str | list[str]
    """A rule in words, or every value of an enum."""
    help: str


class TaskName(_Answer):
    """A task, or an upload that becomes one."""

    uuid: str


class TaskSetting(_Answer):
    """An option with its value."""

    name: str
    value: bool | int | float | str


class TaskStatus(_Answer):
    """How a task stands: 10 waits, 20 runs, 30 failed, 40 completed, 50 canceled."""

    code: Literal[10, 20, 30, 40, 50]
    errorMessage: str | None = None  # noqa: N815 - the name on the wire


class TaskInfo(_Answer):
    """A task. Times in milliseconds; a processing time of -1 means that its engine has not begun."""

    uuid: str
    name: str
    dateCreated: int  # noqa: N815 - the names on the wire
    processingTime: int  # noqa: N815
    status: TaskStatus
    options: list[TaskSetting]
    imagesCount: int  # noqa: N815
    progress: float = Field(ge=0, le=100)
    output: list[str] | None = None
    """Only where `with_output` was asked for."""
    waitingFor: str | None = None  # noqa: N815
    """Only of a task that waits: what for."""


class MainAsset(_Answer):
    """One of the products that most clients look for. Size in bytes."""

    id: Literal["all_zip", "orthophoto", "dsm", "dtm", "point_cloud"]
    asset: str
    """What to load: `/task/{uuid}/download/{asset}`."""
    exists: bool
    downloadUrl: str | None = None  # noqa: N815 - the name on the wire
    """Only where it exists, as its size."""
    size: int | None = None


class OtherAsset(_Answer):
    """Any other product."""

    asset: str
    downloadUrl: str  # noqa: N815 - the name on the wire
    size: int


class TaskAssets(_Answer):
    """What can be downloaded of a task."""

    primary: list[MainAsset]
    additional: list[OtherAsset] | None = None
    """Only where `includeAdditional` was asked for."""
    additionalTotal: int | None = None  # noqa: N815 - the name on the wire
    """How many others there are, listed or not."""


class Put(_Answer):
    """How a file is sent in one request."""

    url: str
    headers: dict[str, str]
    """To be sent with it."""


class Part(_Answer):
    """How one part of a large file is sent."""

    number: int
    offset: int
    size: int
    url: str


class Link(_Answer):
    """Where one announced file goes."""

    asked: str
    """What the client calls it."""
    name: str
    """What it is called here."""
    size: int
    stored: bool
    """It is there already, whole."""
    put: Put | None = None
    parts: list[Part] | None = None
    """Those that are still missing."""


class Links(_Answer):
    """Where announced files go, in the order of the request."""

    files: list[Link]
    expiresInSeconds: int  # noqa: N815 - the name on the wire


class SentFile(_Answer):
    """Whether an announced file is there."""

    name: str
    stored: bool
    missingParts: list[int]  # noqa: N815 - the name on the wire


class SentFiles(_Answer):
    """Whether announced files are there."""

    files: list[SentFile]


class Login(_Answer):
    """Whether there is a login: there is none."""

    message: str
    loginUrl: str | None  # noqa: N815 - the names on the wire
    registerUrl: str | None  # noqa: N815


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of one route."""

    summary: str
    answer: Any
    """The class, or union of classes, of its 200; None for an answer that is no JSON."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query, beside `token`, with what they are."""
    header: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    """Text fields, which come in a form of either kind or as a JSON object."""
    required: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its body where that is always a JSON object, with their schemas. None may be left out."""
    multipart: bool = False
    """The text fields may come in a multipart form as well."""
    files: bool = False
    """Files come with it, as `images`, and so does a multipart form."""
    others: Mapping[int, str] = field(default_factory=dict)
    """Other statuses that it may answer."""
    media_type: str = "application/json"
    token: bool = True

    def arguments(self, path: str) -> dict[str, Any]:
        """As FastAPI takes it when the route is added."""
        return {
            "summary": self.summary,
            "responses": self._responses(path),
            "openapi_extra": self._request(path),
        }

    def _responses(self, path: str) -> dict[int | str, dict[str, Any]]:
        answers: dict[int | str, dict[str, Any]] = {
            status: {"description": text} for status, text in self.others.items()
        }
        if self.answer is None:
            answers[200] = {"description": self.summary, "content": {self.media_type: {"schema": {"type": "string"}}}}
        else:
            answers[200] = {"description": self.summary, "model": self.answer}
        if "{" in path:
            answers[404] = {"description": "The path leads nowhere", "content": _PAGE}
        return answers

    def _request(self, path: str) -> dict[str, Any]:
        names = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
        parameters = [_parameter(name, "path", _PATH[name]) for name in names]
        parameters += [_parameter(name, "query", text) for name, text in self.query.items()]
        parameters += [_parameter(name, "header", text) for name, text in self.header.items()]
        if self.token:
            parameters.append(_parameter("token", "query", "What opens this API; a bearer token does so as well"))
        has_body = self.form or self.files or self.json
        return {"parameters": parameters} | ({"requestBody": self._body()} if has_body else {})

    def _body(self) -> dict[str, Any]:
        if self.json:
            told = {"type": "object", "properties": dict(self.json), "required": list(self.json)}
            return {"content": {"application/json": {"schema": told}}}
        fields: dict[str, Any] = {
            name: (_FLAG if name in _FLAGS else _TEXT) | {"description": text} for name, text in self.form.items()
        }
        schema: dict[str, Any] = {"type": "object", "properties": fields}
        if self.required:
            schema["required"] = list(self.required)
        content = {}
        if self.form:
            content = {"application/json": {"schema": schema}, "application/x-www-form-urlencoded": {"schema": schema}}
        if self.files:
            schema = {**schema, "properties": {**fields, "images": _IMAGES}}
        if self.files or self.multipart:
            content["multipart/form-data"] = {"schema": schema}
        return {"content": content}


def _parameter(name: str, place: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": {"type": "string"},
    }


def described(path: str) -> dict[str, Any]:
    """What FastAPI shall say of the route of this path; nothing where nothing is known."""
    path = path.replace(":path}", "}")
    found = ROUTES.get(path)
    return found.arguments(path) if found is not None else {}


_PAGE = {"text/html": {"schema": {"type": "string"}}}
_IMAGES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "description": "Images, and the files that go with them",
}
_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"type": "string", "enum": ["true", "false"]}
_FLAGS = frozenset({"skipPostProcessing", "useDefaultExcludes", "deleteOutput", "replaceLost"})
_PATH = {"uuid": "The task", "asset": "What to load: all.zip, or one product by its name"}
_TASK_FIELDS = {
    "name": "What people call it",
    "options": "JSON list of objects with name and value",
    "skipPostProcessing": "Leave out what NodeODM does after the engine",
    "webhook": "URL that is called when the task has ended",
    "outputs": "JSON list of the paths that all.zip shall hold",
    "dateCreated": "Milliseconds since 1970; now, when it is not a number",
    "zipurl": "s3:// reference of a folder or a zip file, or the http(s) URL of a zip file",
    "readS3Path": "s3:// folder of the images",
    "writeS3Path": "s3:// folder for the products",
    "s3Endpoint": "S3 server of the input and the products, of those that are allowed here",
    "processingMode": "What ScaleODM's clients say of how it is processed",
    "s3ScanDepth": "How deep folders are looked through; 0 means no limit",
    "excludePaths": "JSON list of patterns of what is left out of the input",
    "useDefaultExcludes": "Leave out what is seldom wanted, such as thumbnails",
    "odmImage": "Container image of the engine",
    "capacityType": "spot or on-demand",
    "nodes": "JSON list of the nodes that may take it",
    "avoidNodes": "JSON list of nodes that may not",
    "nodeLabels": "JSON object of the labels that its node must have",
    "priority": "Whole number; higher goes first",
    "replaceLost": "false: never run again elsewhere when its node falls silent",
}
_NAMES = {"names": {"type": "array", "items": {"type": "string"}, "description": "As they are called here"}}
_FILES = {
    "files": {
        "type": "array",
        "description": "What will be sent",
        "items": {
            "type": "object",
            "required": ["name", "size"],
            "properties": {
                "name": {"type": "string"},
                "size": {"type": "integer", "minimum": 0, "description": "Bytes"},
                "type": {"type": "string", "description": "Media type"},
            },
        },
    }
}
_UUID_HEADER = {"set-uuid": "UUID that the task shall have"}
_DONE = Response | Error

ROUTES: dict[str, Described] = {
    "/info": Described(
        "What stands here, and what it has",
        NodeInfo | Error,
        query={"_debugUnauthorized": "For tests of clients: answer 401"},
        others={401: "Asked for by _debugUnauthorized"},
    ),
    "/options": Described("The options of a task", list[TaskOption] | Error),
    "/task/list": Described("Every task, oldest first", list[TaskName] | Error),
    "/task/{uuid}/info": Described(
        "How a task stands", TaskInfo | Error, query={"with_output": "Console lines from this number on, too"}
    ),
    "/task/{uuid}/output": Described(
        "The console of a task", list[str] | Error, query={"line": "From this line on; negative counts from the end"}
    ),
    "/task/{uuid}/assets": Described(
        "What can be downloaded of a task",
        TaskAssets | Error,
        query={
            "includeAdditional": "true: every other product, too",
            "additionalLimit": "How many of those at most; 100, and never more than 1000",
        },
    ),
    "/task/{uuid}/download/{asset}": Described(
        "One product of a task, or all of them as all.zip",
        Error,
        others={302: "Where it lies: a link that is good for an hour"},
    ),
    "/task/new/presign/{uuid}": Described("Links to send files straight to S3", Links | Error, json=_FILES),
    "/task/new/complete/{uuid}": Described("Files sent in parts become whole", SentFiles | Error, json=_NAMES),
    "/task/new/withdraw/{uuid}": Described("Announced files that will not come", _DONE, json=_NAMES),
    "/task/new": Described(
        "A new task in one request: with its files, or by S3 reference",
        TaskName | Error,
        header=_UUID_HEADER,
        form=_TASK_FIELDS,
        files=True,
    ),
    "/task/new/init": Described(
        "Open an upload", TaskName | Error, header=_UUID_HEADER, form=_TASK_FIELDS, multipart=True
    ),
    "/task/new/upload/{uuid}": Described("Add files to an upload", _DONE, files=True),
    "/task/new/commit/{uuid}": Described("Make a task of an upload", TaskName | Error),
    "/task/cancel": Described("End a task", _DONE, form={"uuid": "The task"}, required=("uuid",)),
    "/task/remove": Described(
        "End a task and forget it",
        _DONE,
        form={"uuid": "The task", "deleteOutput": "Delete its products in S3, too"},
        required=("uuid",),
    ),
    "/task/restart": Described(
        "Run a task once more, under the same UUID",
        _DONE,
        form={"uuid": "The task", "options": "JSON list of objects with name and value, in place of the old ones"},
        required=("uuid",),
    ),
    "/auth/info": Described("Whether there is a login", Login, token=False),
    "/auth/login": Described("There is no login", Error, token=False),
    "/auth/register": Described("There is no registration", Error, token=False),
}
