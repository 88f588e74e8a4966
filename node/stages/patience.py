"""S3 that is away is waited for: hours of an engine's work are not thrown away for it."""

from collections.abc import Callable
from typing import TypeVar

import tenacity

from common.storage import StorageFault

R = TypeVar("R")

FETCH_PATIENCE_S = 1800.0
PUBLISH_PATIENCE_S = 6 * 3600.0
"""Longer: by then the engine has done its work."""


def patiently(patience_s: float, say: Callable[[str], None], work: Callable[[], R]) -> R:
    """Do it, and again for so long while S3 is away; what it says of that goes to the console."""

    def told(state: tenacity.RetryCallState) -> None:
        trouble = state.outcome.exception() if state.outcome else None
        say(f"[WARNING] {trouble} Trying again.")

    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda trouble: isinstance(trouble, StorageFault) and trouble.may_pass),
        wait=tenacity.wait_exponential_jitter(multiplier=1, max=60),
        stop=tenacity.stop_after_delay(patience_s),
        before_sleep=told,
        reraise=True,
    )
    return again(work)
