"""Names of an upload's files in Postgres, so that any replica can take any file of it."""

from common.nodeodm.messages import next_name
from common.nodeodm.uploads import Claim
from router import queries
from router.database import Database
from router.tables import StagedFileRow


class TableInbox:
    """The inbox of one upload (see `common.nodeodm.uploads.Inbox`)."""

    def __init__(self, database: Database, uuid: str) -> None:
        """`uuid`: the upload's."""
        self._database = database
        self._uuid = uuid

    async def claim(self, asked: str, sha256: str | None, size: int) -> Claim:
        """A free name, taken by the row that it makes; no two replicas can make the same one."""
        async with self._database.transaction() as session:
            if sha256 is not None:
                twin = await queries.same_file(session, self._uuid, asked, sha256, size)
                if twin is not None:
                    return Claim(twin, True)
            name = asked
            while not await queries.take_name(session, self._row(name, asked)):
                name = next_name(name)
        return Claim(name, False)

    async def confirm(self, name: str, sha256: str, size: int) -> bool:
        """The file is stored."""
        async with self._database.transaction() as session:
            row = await session.get(StagedFileRow, (self._uuid, name), with_for_update=True)
            if row is None or await queries.same_file(session, self._uuid, row.asked, sha256, size):
                return False
            row.sha256, row.size = sha256, size
        return True

    async def release(self, name: str) -> None:
        """The file is not stored after all."""
        async with self._database.transaction() as session:
            await queries.free_name(session, self._uuid, name)

    def _row(self, name: str, asked: str) -> StagedFileRow:
        return StagedFileRow(task_uuid=self._uuid, name=name, asked=asked)
