"""The router, as the run of a split task needs it: ODM gives up at once when nobody answers there at its start."""

import time
from collections.abc import Callable

PATIENCE_S = 120.0
_ASK_EVERY_S = 2.0


def router_answers(url: str, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> bool:
    """Wait until the router answers, whatever it says; false when it does not within `patience_s`."""
    import httpx  # few runs need it, and each one would wait for it

    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            httpx.get(f"{url}/info", timeout=10)
        except httpx.HTTPError as trouble:
            if not told:
                say(
                    f"The router {url}, which is to get parts of this task, does not answer ({trouble}); waiting for it"
                )
                told = True
        else:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_ASK_EVERY_S)
