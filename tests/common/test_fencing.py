"""Only the current attempt publishes (I2), on an S3 server with conditional writes and on one without."""

import threading
from collections import Counter

import pytest

from common.fencing import AlreadyPublished, Fence, Mark, Outdated, Stage, check, mark_of
from common.references import ATTEMPT, Reference
from common.storage import Storage

OUTPUT = "out/"


def fence(storage: Storage, bucket: Reference, attempt: int, first_attempt: int = 1, uuid: str = "u") -> Fence:
    """The hold of an attempt."""
    return Fence(storage, bucket / OUTPUT, Mark(uuid, attempt), first_attempt)


def test_a_later_attempt_takes_the_place_and_the_earlier_one_finds_out(storage: Storage, bucket: Reference) -> None:
    """At whatever step it is."""
    first, second = fence(storage, bucket, 1), fence(storage, bucket, 2)
    first.take()
    first.begin()
    second.take()
    for step in (first.take, first.begin, first.finish):
        with pytest.raises(Outdated, match="Attempt 1 of task u is outdated: attempt 2 has taken its output"):
            step()
    second.begin()
    second.finish()
    for step in (first.take, first.begin, first.finish):
        with pytest.raises(Outdated, match="attempt 2 has taken its output"):
            step()
    assert mark_of(storage.read(bucket / OUTPUT / ATTEMPT)) == Mark("u", 2, Stage.PUBLISHED)


def test_an_attempt_that_comes_after_the_end_has_nothing_to_do(storage: Storage, bucket: Reference) -> None:
    """The late original had finished after all."""
    first = fence(storage, bucket, 1)
    for step in (first.take, first.begin, first.finish):
        step()
    with pytest.raises(AlreadyPublished, match="Attempt 1"):
        fence(storage, bucket, 2).take()
    restarted = fence(storage, bucket, 2, first_attempt=2)
    for step in (restarted.take, restarted.begin, restarted.finish):
        step()


def test_every_step_may_be_repeated(storage: Storage, bucket: Reference) -> None:
    """A pod that starts again is the same attempt."""
    mine = fence(storage, bucket, 1)
    for step in (mine.take, mine.take, mine.begin, mine.take, mine.begin, mine.finish, mine.finish):
        step()
    with pytest.raises(AlreadyPublished):
        mine.take()


def test_another_task_may_take_the_output_over(storage: Storage, bucket: Reference) -> None:
    """It was told the same output: the later one has it, the earlier one is told."""
    first, other = fence(storage, bucket, 1), fence(storage, bucket, 1, uuid="v")
    first.take()
    other.take()
    with pytest.raises(Outdated, match="another task has taken its output"):
        first.finish()


def test_what_is_not_ours_is_overwritten(storage: Storage, bucket: Reference) -> None:
    """Somebody has put nonsense there."""
    storage.write(bucket / OUTPUT / ATTEMPT, b"nonsense", "text/plain")
    fence(storage, bucket, 1).take()
    assert mark_of(storage.read(bucket / OUTPUT / ATTEMPT)) == Mark("u", 1, Stage.TAKEN)


def test_i2_of_many_attempts_at_once_exactly_one_publishes(moto_url: str) -> None:
    """With conditional writes, in whatever order: eight attempts in threads, each as fast as it can."""
    from common.embedded.object_store import storage_at

    storage = storage_at(moto_url, "tester", "tester")
    storage.make_bucket("fencing")
    for turn in range(5):
        bucket, ends = Reference("fencing", f"{turn}/"), Counter[str]()

        def run(attempt: int, bucket: Reference = bucket, ends: Counter[str] = ends) -> None:
            mine = fence(storage, bucket, attempt)
            try:
                mine.take()
                mine.begin()
                mine.finish()
                ends["published"] += 1
            except (Outdated, AlreadyPublished) as end:
                ends[type(end).__name__] += 1

        threads = [threading.Thread(target=run, args=(attempt,)) for attempt in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends["published"] == 1, ends
        assert ends.total() == 8


def test_the_rule_alone() -> None:
    """As a function of what was found."""
    mine = Mark("u", 3)
    check(mine, 1, None)
    check(mine, 1, Mark("u", 2, Stage.PUBLISHING))
    check(mine, 3, Mark("u", 2, Stage.PUBLISHED))
    with pytest.raises(AlreadyPublished):
        check(mine, 2, Mark("u", 2, Stage.PUBLISHED))
    for stage in Stage:
        with pytest.raises(Outdated):
            check(mine, 1, Mark("u", 4, stage))
