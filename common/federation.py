"""Join, heartbeat and forward: the JSON between router and node (design 4.2)."""

from pydantic import BaseModel, ConfigDict, Field

from common.tasks import NOT_RUNNING, State

HEARTBEAT_S = 5.0
"""Seconds between two heartbeats (design 4.2)."""
LINES_PER_HEARTBEAT = 2_000
"""Console lines of one attempt that one heartbeat carries at most; the rest follows with the next."""


class Message(BaseModel):
    """A message between router and node. Unknown fields are let pass: the two may differ by a release."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Capacity(Message):
    """What a node has and what of it is free, as the node itself measures it."""

    slots: int = Field(ge=1, le=10_000)
    direct: int = Field(default=0, ge=0)
    """Slots taken by tasks that did not come from this router."""
    cpu_cores: int = Field(default=1, ge=1)
    total_memory_bytes: int = Field(default=0, ge=0)
    available_memory_bytes: int = Field(default=0, ge=0)
    free_disk_bytes: int = Field(default=0, ge=0)


class OptionMessage(Message):
    """One entry of the node's `/options` (contract 2.4)."""

    name: str
    type: str
    value: str
    domain: str | list[str]
    help: str


class JoinRequest(Message):
    """`POST /federation/nodes`: a node asks to take part. The same name again updates, never duplicates."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    engine: str = Field(max_length=32)
    engine_version: str = Field(max_length=32)
    capacity: Capacity
    max_images: int | None = Field(default=None, ge=1)
    labels: dict[str, str] = Field(default_factory=dict)
    capabilities: list[str] = Field(default_factory=list)
    options: list[OptionMessage] = Field(default_factory=list)


class JoinAnswer(Message):
    """What the node needs from now on. The secret opens both ways: node to router, router to node."""

    node_id: str
    secret: str = Field(repr=False)
    heartbeat_s: float = HEARTBEAT_S


class AttemptKey(Message):
    """One attempt, by task and number."""

    uuid: str
    attempt: int = Field(ge=1)


class AttemptReport(AttemptKey):
    """How one attempt stands on its node."""

    state: State
    progress: float = Field(default=0.0, ge=0, le=100)
    processing_ms: int = NOT_RUNNING
    images_count: int = Field(default=0, ge=0)
    error: str | None = None
    input_at_fault: bool = False
    """The input cannot be processed as it is, wherever it is tried."""
    first_line: int = Field(default=0, ge=0)
    lines: list[str] = Field(default_factory=list)
    """Console lines from number `first_line` on."""


class Heartbeat(Message):
    """`POST /federation/nodes/{id}/heartbeat`: every few seconds, and at once when an attempt ends."""

    capacity: Capacity
    attempts: list[AttemptReport] = Field(default_factory=list)
    """Every attempt that the node holds for this router, ended ones too, until the router lets it go."""


class Acknowledged(AttemptKey):
    """The router holds the console of this attempt up to (not including) `next_line`."""

    next_line: int = Field(ge=0)


class HeartbeatAnswer(Message):
    """What the node must do."""

    stop: list[AttemptKey] = Field(default_factory=list)
    """No longer current: end it and forget it."""
    acknowledged: list[Acknowledged] = Field(default_factory=list)
    draining: bool = False


class Forward(Message):
    """`POST /task/new` from router to node, as JSON: a task by its S3 references.

    The same (uuid, attempt) twice gets the same answer and starts no second run.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    attempt: int = Field(ge=1)
    name: str
    tenant: str
    read: str = Field(alias="readS3Path")
    write: str = Field(alias="writeS3Path")
    options: list[dict[str, str | int | float | bool]] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    skip_post_processing: bool = Field(default=False, alias="skipPostProcessing")
    date_created: int = Field(alias="dateCreated")
    images_count: int = Field(default=0, ge=0, alias="imagesCount")
    input_bytes: int = Field(default=0, ge=0, alias="inputBytes")
