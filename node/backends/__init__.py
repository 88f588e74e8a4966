"""Where a node's runs really happen: processes on this machine, or Jobs in a cluster."""

from typing import Protocol

from node.console import Console
from node.runs import Order, RunStatus


class Backend(Protocol):
    """Starts, watches and ends runs. A run outlives the node's own restarts."""

    def start(self, order: Order) -> None:
        """Start the run; starting the same one twice is starting it once."""
        ...

    def status(self, uuid: str, attempt: int) -> RunStatus | None:
        """Where the run stands; None when it is not there, or was ended from outside before its end."""
        ...

    def console(self, uuid: str, attempt: int) -> Console:
        """The run's console."""
        ...

    async def stop(self, uuid: str, attempt: int) -> None:
        """End the run; when this returns, nothing of it is running. Safe to repeat."""
        ...

    async def forget(self, uuid: str, attempt: int) -> None:
        """Stop the run and delete everything of it."""
        ...
