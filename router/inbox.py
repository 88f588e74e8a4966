"""Names of an upload's files in Postgres, so that any replica can take any file of it."""

from common.nodeodm.messages import next_name
from common.nodeodm.refusals import Refused
from router import queries
from router.database import Database


class TableInbox:
    """The inbox of one upload (see `common.nodeodm.uploads.Inbox`)."""

    def __init__(self, database: Database, uuid: str) -> None:
        """`uuid`: the upload's."""
        self._database = database
        self._uuid = uuid

    async def claim(self, asked: str) -> str:
        """A free name, taken by the row that it makes; no two replicas can make the same one."""
        name = asked
        async with self._database.statement() as session:
            while not await queries.take_name(session, self._uuid, name):
                if await queries.tenant_of_upload(session, self._uuid) is None:
                    raise Refused("Invalid uuid (not found)")
                name = next_name(name)
        return name

    async def release(self, name: str) -> None:
        """The file is not kept after all."""
        async with self._database.statement() as session:
            await queries.free_name(session, self._uuid, name)
