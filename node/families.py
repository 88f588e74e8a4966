"""The tokens by which this node's runs send the router the parts of split tasks: derived, when a run begins."""

from urllib.parse import urlsplit

from common.families import Family, family_token, netrc
from node.backends import BackendRefused
from node.records import Record


class FamilyTokens:
    """Knows how the router knows this node, once it has joined."""

    def __init__(self) -> None:
        """It has not yet."""
        self._node_id = ""
        self._secret = ""

    def joined(self, node_id: str, secret: str) -> None:
        """The router has answered; it answers a node the same each time."""
        self._node_id, self._secret = node_id, secret

    def netrc_of(self, record: Record) -> str | None:
        """The file that opens the router for a record's run; None for one that sends it nothing.

        Raises `BackendRefused` before this node has joined: its runs that are to go on after a restart wait for that.
        """
        if record.cluster is None:
            return None
        if not self._secret:
            raise BackendRefused("this node has not joined its router yet, which is to get the parts of this task")
        family = Family(record.task.uuid, record.task.attempt, self._node_id)
        return netrc(urlsplit(record.cluster).hostname or "", family_token(family, self._secret))
