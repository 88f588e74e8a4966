"""Join, heartbeat and forward: the JSON between router and node (design 4.2)."""

from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from common.addresses import readable
from common.tasks import NOT_RUNNING, Cause, State
from common.tokens import derived

HEARTBEAT_S = 5.0
"""Seconds between two heartbeats (design 4.2)."""
LATE_BEATS = 3
"""A node that has been silent for so many heartbeats is late, and gets no new work (design 6)."""
PROTOCOL = 1
"""Version of these messages; grows where a node and a router of different releases would misunderstand each other."""
MOST_ATTEMPTS = 20_000
"""Attempts that one heartbeat may tell of: twice the slots that a node may have."""
MOST_BODY_BYTES = 64 * 2**20
"""Of one message."""
LINES_PER_HEARTBEAT = 2_000
"""Console lines of one attempt that one heartbeat carries at most; the rest follows with the next."""


Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#@]+$", max_length=2000), AfterValidator(readable)]
Text = Annotated[str, AfterValidator(lambda text: text.replace("\x00", ""))]
"""What people read. No database takes the letter NUL, which engines and file systems may put into it."""


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

    name: Text
    type: Text
    value: Text
    domain: Text | list[Text]
    help: Text


class JoinRequest(Message):
    """`POST /federation/nodes`: a node asks to take part. The same name again updates, never duplicates."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    url: Url
    other_urls: list[Url] = Field(default_factory=list, max_length=4)
    """Further addresses of the same node, tried in turn where `url` does not lead to it from the router."""
    engine: Text = Field(max_length=32)
    engine_version: Text = Field(max_length=32)
    capacity: Capacity
    max_images: int | None = Field(default=None, ge=1)
    max_images_at: dict[float, int] = Field(default_factory=dict)
    """`max_images` when a task is given so many times the usual memory, where the node can give more."""
    labels: dict[Text, Text] = Field(default_factory=dict)
    capabilities: list[Text] = Field(default_factory=list)
    options: list[OptionMessage] = Field(default_factory=list)
    protocol: int = PROTOCOL
    clock: AwareDatetime | None = None
    """What time it is at the node."""
    proof_key: str = Field(default="", max_length=128, repr=False)
    """Of a node that joins without a token: random, and in place of one in `identity_proof`."""
    secret: str = Field(default="", max_length=128, repr=False)
    """What the node was given when it joined before: whoever knows it has moved, and is no other node of its name."""

    def of_the_node(self) -> dict[str, Any]:
        """What is kept of it; the rest is about the joining alone."""
        return self.model_dump(exclude={"name", "other_urls", "protocol", "clock", "proof_key", "secret"})


class Identity(Message):
    """`GET /federation/identity?nonce=…` of a node: what an address leads to."""

    name: str
    proof: str
    """`identity_proof` with the node's join token or its key, which shows that it is the node that asks to join."""
    release: str = ""
    """Of this package; one that does not say is older than those that do."""


def identity_proof(join_token: str, name: str, nonce: str) -> str:
    """What only the node of this name with this join token can say to this nonce."""
    return derived(join_token, f"identity of node {name}: {nonce}")


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
    error: Text | None = None
    cause: Cause | None = None
    """Why it failed: what decides whether it is tried again."""
    first_line: int = Field(default=0, ge=0)
    waiting: Text | None = None
    """What its run waits for."""
    lines: list[Text] = Field(default_factory=list)
    """Console lines from number `first_line` on."""


class Heartbeat(Message):
    """`POST /federation/nodes/{id}/heartbeat`: every few seconds, and at once when an attempt ends."""

    capacity: Capacity
    session: str = Field(default="", max_length=64)
    """The same for all heartbeats of one process."""
    beat: int = Field(default=0, ge=0)
    """Counts them: one that comes late, or twice, says nothing of now."""
    attempts: list[AttemptReport] = Field(default_factory=list, max_length=MOST_ATTEMPTS)
    """Every attempt that the node holds for this router, ended ones too, until the router lets it go."""
    workspaces: dict[str, int] | None = None
    """By task the number of the ended attempt whose workspace is kept there; None means nothing new of that."""


class Acknowledged(AttemptKey):
    """The router holds the console of this attempt up to (not including) `next_line`."""

    next_line: int = Field(ge=0)


class HeartbeatAnswer(Message):
    """What the node must do."""

    stop: list[AttemptKey] = Field(default_factory=list)
    """No longer current: end it and forget it."""
    acknowledged: list[Acknowledged] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list)
    """Of the tasks whose workspaces the node keeps those that this router does not know, or no longer."""
    draining: bool = False
    removed: bool = False
    """An administrator has removed the node: it stays away until it is started again."""
    busy_s: float = 1.0
    """Seconds between heartbeats while something runs: progress is what people watch, and many nodes are many."""


class Forward(Message):
    """`POST /task/new` from router to node, as JSON: a task by its S3 references.

    The same (uuid, attempt) twice gets the same answer and starts no second run.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    attempt: int = Field(ge=1)
    first_attempt: int = Field(default=1, ge=1, alias="firstAttempt")
    memory_factor: float = Field(default=1.0, ge=1.0, alias="memoryFactor")
    name: str
    tenant: str
    read: str = Field(alias="readS3Path")
    write: str = Field(alias="writeS3Path")
    options: list[dict[str, str | int | float | bool]] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    skip_post_processing: bool = Field(default=False, alias="skipPostProcessing")
    date_created: int = Field(alias="dateCreated")
    scan_depth: int | None = Field(default=None, alias="s3ScanDepth")
    exclude: list[str] = Field(default_factory=list, alias="excludePaths")
    use_default_excludes: bool = Field(default=False, alias="useDefaultExcludes")
    """They stand among `exclude` where they are wanted."""
    engine_image: str | None = Field(default=None, alias="odmImage")
    capacity_type: str | None = Field(default=None, alias="capacityType")
    images_count: int = Field(default=0, ge=0, alias="imagesCount")
    input_bytes: int = Field(default=0, ge=0, alias="inputBytes")
    cluster: str | None = None
    """Where the run sends the parts into which it splits the task; the node gives it the token for that."""
