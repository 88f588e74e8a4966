"""Names of an upload's files in Postgres, so that any replica can take any file of it."""

from common.nodeodm.refusals import Refused
from router import queries
from router.database import Database


class TableInbox:
    """The inbox of one upload (see `common.nodeodm.uploads.Inbox`)."""

    def __init__(self, database: Database, uuid: str) -> None:
        """`uuid`: the upload's."""
        self._database = database
        self._uuid = uuid

    async def take(self, name: str) -> bool:
        """Take a name by the row that it makes; no two replicas can make the same one."""
        async with self._database.statement() as session:
            if await queries.take_name(session, self._uuid, name):
                return True
            if await queries.owner_of_upload(session, self._uuid) is None:
                raise Refused("Invalid uuid (not found)")
            return False

    async def release(self, name: str) -> None:
        """The name is free again."""
        async with self._database.statement() as session:
            await queries.free_name(session, self._uuid, name)
