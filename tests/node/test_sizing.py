"""How large a task is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm.options import Setting
from common.tasks import Task
from node.sizing import PEAKS_GIB, Rules, Size, most_images, size_of, too_large
from tests.common.nodeodm.test_messages import task

PLAIN = Rules(margin_percent=0, memory_min_gib=0.001, disk_min_gib=0.001)


def of(images: int, *options: tuple[str, object], input_bytes: int = 1) -> Task:
    """A task of so many images."""
    settings = tuple(Setting(name, value) for name, value in options)  # type: ignore[arg-type]
    return task(images_count=images, input_bytes=input_bytes, options=settings)


@pytest.mark.parametrize(("images", "gib"), PEAKS_GIB)
def test_the_points_of_the_table(images: int, gib: float) -> None:
    """Design 7."""
    assert size_of(of(images), PLAIN).memory_request_mib == gib * 1024


def test_between_and_beyond_the_points() -> None:
    """Linear."""
    assert size_of(of(350), PLAIN).memory_request_mib == 31 * 1024
    assert size_of(of(19_000), PLAIN).memory_request_mib == 1373 * 1024
    assert 16 * 1024 < size_of(of(1), PLAIN).memory_request_mib < 18 * 1024


@given(st.integers(1, 50_000), st.integers(1, 50_000))
def test_more_images_never_take_less(one: int, other: int) -> None:
    """Whatever the table says."""
    small, large = sorted((one, other))
    assert size_of(of(small), Rules()).memory_request_mib <= size_of(of(large), Rules()).memory_request_mib


def test_options_make_a_task_lighter_or_heavier() -> None:
    """The multipliers are settings; `split` works on parts one after the other."""
    plain = size_of(of(1000), PLAIN).memory_request_mib
    assert size_of(of(1000, ("fast-orthophoto", True)), PLAIN).memory_request_mib == plain / 2
    assert size_of(of(1000, ("dsm", True), ("dtm", True)), PLAIN).memory_request_mib == pytest.approx(
        plain * 1.1, abs=1
    )
    assert size_of(of(1000, ("dsm", False)), PLAIN).memory_request_mib == plain
    assert size_of(of(9000, ("split", 400)), PLAIN).memory_request_mib == 37 * 1024


def test_swap_is_counted_on() -> None:
    """ScaleODM: request = peak / (1 + ratio); the limit lies above the request with swap, above the peak without."""
    rules = Rules(swap_ratio=1.0, margin_percent=20)
    with_swap = size_of(of(500), rules)
    assert (with_swap.memory_request_mib, with_swap.memory_limit_mib) == (18.5 * 1024, 22733)
    without = size_of(of(500), replace(rules, swap_ratio=0))
    assert (without.memory_request_mib, without.memory_limit_mib) == (37 * 1024, 45466)


def test_cpu_and_disk() -> None:
    """CPU by memory, no more than the largest machine has; scratch by the input's bytes."""
    rules = Rules(cpu_per_gib=0.125, cpu_limit_factor=1.5, disk_factor=12, disk_min_gib=10, largest_cpu=8)
    small = size_of(of(40, input_bytes=2**30), rules)
    assert small == Size(18 * 1024, 22119, 2250, 3375, 12 * 1024)
    large = size_of(of(5000, input_bytes=100 * 2**30), rules)
    assert (large.cpu_request_milli, large.cpu_limit_milli, large.disk_mib) == (8000, 12000, 1200 * 1024)


def test_a_zip_is_sized_by_its_bytes() -> None:
    """Nobody has counted what is in it."""
    zipped = size_of(of(0, input_bytes=500 * 8_000_000), PLAIN)
    assert zipped.memory_request_mib == 37 * 1024


def test_what_no_machine_can_take_is_told() -> None:
    """Memory and disk, each with what there is and what to do."""
    rules = Rules(largest_memory_gib=64, largest_disk_gib=100)
    assert too_large(of(1000), rules) is None
    told = too_large(of(2500), rules)
    assert told is not None
    assert told.startswith("2500 images need about 121 GiB of memory, and the largest machine of this node has 64 GiB.")
    disk = too_large(of(100, input_bytes=20 * 2**30), rules)
    assert disk is not None
    assert "need about 240 GiB of scratch disk" in disk


@given(st.floats(20, 2000))
def test_the_most_images_of_a_node_fit_and_one_more_does_not(gib: float) -> None:
    """What `/info` and the router are told: run in the lightest way."""
    rules = Rules(largest_memory_gib=gib, memory_min_gib=0.1)
    most = most_images(rules)
    assert most is not None
    assert too_large(of(most, ("fast-orthophoto", True)), rules) is None
    assert too_large(of(most + 2, ("fast-orthophoto", True)), rules) is not None
    assert most_images(Rules()) is None
