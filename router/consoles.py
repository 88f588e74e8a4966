"""Console lines in memory, as many as fit: a poll with output costs a look at the database only for new lines."""

from collections import OrderedDict

from router import queries
from router.database import Database

MOST_LINES = 300_000
"""Lines kept of all consoles together: some 50 MB."""


class Consoles:
    """The consoles that were asked for last. How long a console is by now, the snapshot knows."""

    def __init__(self, database: Database, most_lines: int = MOST_LINES) -> None:
        """Empty."""
        self._database = database
        self._most_lines = most_lines
        self._kept: OrderedDict[tuple[str, int], list[str]] = OrderedDict()

    async def lines(self, uuid: str, attempt: int, total: int) -> list[str]:
        """The attempt's lines, at least the first `total`. Not to be changed by whoever gets them."""
        kept = self._kept.setdefault((uuid, attempt), [])
        self._kept.move_to_end((uuid, attempt))
        if (begin := len(kept)) < total:
            async with self._database.statement() as session:
                new = await queries.lines_from(session, uuid, attempt, begin)
            # Somebody else may have read the same lines meanwhile.
            kept += new[len(kept) - begin :]
            self._let_go()
        return kept

    def _let_go(self) -> None:
        """Forget what was asked for longest ago."""
        total = sum(map(len, self._kept.values()))
        while total > self._most_lines and len(self._kept) > 1:
            _, forgotten = self._kept.popitem(last=False)
            total -= len(forgotten)
