"""Waiting for an event, and not for ever."""

import asyncio


async def comes(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event comes within so long.

    Not `asyncio.wait_for`: in Python 3.11 it loses a cancellation that arrives together with the event, and whoever
    waited goes on for ever.
    """
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
