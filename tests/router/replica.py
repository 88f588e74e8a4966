"""The parts of one router that decide, without its web server, over a real Postgres."""

from common.embedded.object_store import ObjectStore
from common.federation import AttemptReport, Capacity, Heartbeat, HeartbeatAnswer, JoinRequest
from common.references import Reference
from common.settings import Switch
from common.tasks import State, Task
from router import queries
from router.access import Access
from router.database import Database
from router.history import History
from router.lifecycle import USUAL, Clocks
from router.loop import Loop
from router.registry import Registry
from router.settings import RouterSettings
from router.snapshot import Snapshot
from router.tables import TaskRow
from tests.common.nodeodm.test_messages import task

SETTINGS = RouterSettings.model_construct(
    secret_key=RouterSettings.model_fields["secret_key"].annotation("k" * 32),  # type: ignore[misc]
    auth=Switch.ON,
    user_token=None,
    node_token=None,
    admin_token=None,
)
UNREACHABLE = "http://127.0.0.1:1"


class Replica:
    """One router."""

    def __init__(self, database: Database, rclone: ObjectStore, clocks: Clocks = USUAL) -> None:
        """It does not lead yet."""
        self.database = database
        self.snapshot = Snapshot()
        self.access = Access(SETTINGS, database)
        parts = (database, self.snapshot, self.access, rclone.storage(), Reference.parse("s3://staging/"))
        self.registry = Registry(*parts)
        self.history = History(database, self.registry)
        self.loop = Loop(*parts, self.registry, self.history, clocks)

    async def lead(self) -> "Replica":
        """Come to lead, which nobody does."""
        await self.loop.leadership.contend()
        assert self.loop.leadership.is_leading
        return self

    async def join(self, name: str, slots: int = 1, **fields: object) -> str:
        """A node that joins; gives its id."""
        plain = {"name": name, "url": UNREACHABLE, "engine": "odm", "engine_version": "1"}
        answer = await self.registry.join(
            JoinRequest.model_validate(plain | {"capacity": Capacity(slots=slots)} | fields)
        )
        return answer.node_id

    async def add(self, found: Task) -> None:
        """A surveyed task."""
        async with self.database.transaction() as session:
            row = TaskRow.of(found)
            row.committed_at = await queries.now(session)
            session.add(row)
        self.snapshot.put(row)

    async def read(self, uuid: str = "u") -> Task:
        """The task as Postgres has it."""
        async with self.database.transaction() as session:
            row = await queries.task_row(session, uuid)
        assert row is not None
        return row.task()

    async def place(self) -> None:
        """Reserve slots for what waits."""
        await self.loop.place(await self.loop.standings())

    async def watch(self) -> None:
        """Give up what is lost."""
        await self.loop.watch(await self.loop.standings())

    async def hear(self, node_id: str, *reports: AttemptReport, slots: int = 1) -> HeartbeatAnswer:
        """A heartbeat."""
        return await self.registry.heartbeat(node_id, Heartbeat(capacity=Capacity(slots=slots), attempts=list(reports)))

    async def report(self, node_id: str, **fields: object) -> tuple[list[str], dict[str, int]]:
        """A heartbeat with one report; gives what to stop, and what line is wanted next."""
        answer = await self.hear(node_id, report(**fields))
        return [key.uuid for key in answer.stop], {each.uuid: each.next_line for each in answer.acknowledged}

    async def attempts(self, uuid: str = "u") -> list[tuple[int, str, str | None]]:
        """Number, state and cause of each attempt."""
        async with self.database.transaction() as session:
            rows = await queries.attempts_of(session, uuid)
        return [(attempt.number, attempt.state, attempt.cause) for attempt, _ in rows]


def report(**fields: object) -> AttemptReport:
    """What a node says of an attempt, of task `u` and number 1 where nothing else is told."""
    return AttemptReport.model_validate({"uuid": "u", "attempt": 1, "state": "running"} | fields)


def waiting(uuid: str = "u", **changes: object) -> Task:
    """A task that waits for nothing but a slot."""
    return task(**({"uuid": uuid, "state": State.STAGING, "input_bytes": 1, "images_count": 2} | changes))
