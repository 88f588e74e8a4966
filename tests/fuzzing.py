"""How many cases the fuzz tests try: few in the suite, `SCALEODM_TEST_FUZZ=100000` in the long run."""

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("SCALEODM_TEST_FUZZ", "0"))
TIMEOUT_S = 6 * 3600 if CASES else 60

Test = TypeVar("Test", bound=Callable[..., object])


def fuzzed(usual: int) -> Callable[[Test], Test]:
    """Try so many cases, or as many as the environment asks for."""
    return settings(
        max_examples=CASES or usual,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )
