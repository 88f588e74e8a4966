"""How much memory, CPU and scratch disk a task takes, from what its input holds (design 7). Pure.

The figures are ScaleODM's, hand-fitted to real runs: the peak of memory and swap together. It is brief, so with swap on
the machines only part of it is requested.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.nodeodm.options import Setting
from common.tasks import Task

PEAKS_GIB: tuple[tuple[int, float], ...] = (
    (40, 18),
    (200, 25),
    (500, 37),
    (1000, 58),
    (1500, 79),
    (2500, 121),
    (3500, 163),
    (5000, 227),
    (12000, 800),
)
"""Images → peak of RAM and swap in GiB (design 7); linear in between and beyond."""
BYTES_PER_IMAGE = 8_000_000
"""What an image of a usual drone camera takes: for a zip, whose images nobody has counted."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Rules:
    """How a node turns a peak into requests, and the largest machine that its cluster has."""

    memory_factor: float = 1.0
    fast_orthophoto_factor: float = 0.5
    dem_factor: float = 1.1
    swap_ratio: float = 0.0
    margin_percent: float = 20.0
    memory_min_gib: float = 4.0
    cpu_per_gib: float = 0.125
    cpu_limit_factor: float = 0.0
    disk_factor: float = 12.0
    disk_min_gib: float = 10.0
    largest_memory_gib: float | None = None
    largest_cpu: float | None = None
    largest_disk_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What a run asks of its machine. Memory and disk in MiB, CPU in thousandths of a core."""

    memory_request_mib: int
    memory_limit_mib: int
    cpu_request_milli: int
    cpu_limit_milli: int | None
    disk_mib: int


def size_of(task: Task, rules: Rules) -> Size:
    """The size of a task whose input has been counted."""
    peak_gib = _peak_gib(_images_at_once(task)) * _factor(task, rules)
    request_gib = max(rules.memory_min_gib, peak_gib / (1 + rules.swap_ratio))
    base_gib = request_gib if rules.swap_ratio > 0 else max(rules.memory_min_gib, peak_gib)
    cpu = max(0.1, request_gib * rules.cpu_per_gib)
    if rules.largest_cpu is not None:
        cpu = min(cpu, rules.largest_cpu)
    disk_gib = max(rules.disk_min_gib, task.input_bytes * rules.disk_factor / _GIB)
    return Size(
        memory_request_mib=_mib(request_gib),
        memory_limit_mib=_mib(base_gib * (1 + rules.margin_percent / 100)),
        cpu_request_milli=math.ceil(cpu * 1000),
        cpu_limit_milli=math.ceil(cpu * rules.cpu_limit_factor * 1000) if rules.cpu_limit_factor > 0 else None,
        disk_mib=_mib(disk_gib),
    )


def too_large(task: Task, rules: Rules) -> str | None:
    """Why no machine of this node can take the task; None where one can."""
    size = size_of(task, rules)
    count = f"{task.images_count or _images(task)} images"
    if rules.largest_memory_gib is not None and size.memory_request_mib > _mib(rules.largest_memory_gib):
        return (
            f"{count} need about {size.memory_request_mib / 1024:.0f} GiB of memory, and the largest machine of this "
            f"node has {rules.largest_memory_gib:g} GiB. Use fewer images, fast-orthophoto or split, or a larger node."
        )
    if rules.largest_disk_gib is not None and size.disk_mib > _mib(rules.largest_disk_gib):
        return (
            f"{count} of {task.input_bytes / 1e9:.1f} GB need about {size.disk_mib / 1024:.0f} GiB of scratch disk, "
            f"and the largest machine of this node has {rules.largest_disk_gib:g} GiB. Use fewer images, or a larger "
            "node."
        )
    return None


def most_images(rules: Rules, factor: float = 1.0) -> int | None:
    """How many images the largest machine can take, run in the lightest way; None means any number.

    `factor`: given so many times the usual memory.
    """
    if rules.largest_memory_gib is None:
        return None
    lightest = factor * rules.memory_factor * min(1.0, rules.fast_orthophoto_factor)
    low, high = 0, 1
    while _peak_gib(high) * lightest / (1 + rules.swap_ratio) <= rules.largest_memory_gib:
        low, high = high, high * 2
        if high > 10_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        fits = _peak_gib(middle) * lightest / (1 + rules.swap_ratio) <= rules.largest_memory_gib
        low, high = (middle, high) if fits else (low, middle)
    return max(1, low)


def _images(task: Task) -> int:
    return task.images_count or max(1, round(task.input_bytes / BYTES_PER_IMAGE))


def _images_at_once(task: Task) -> int:
    """ODM's `split` works on submodels one after the other; a quarter more for their overlap."""
    split = _given(task.options).get("split")
    images = _images(task)
    return min(images, math.ceil(split * 1.25)) if isinstance(split, int) and split > 0 else images


def _factor(task: Task, rules: Rules) -> float:
    given = _given(task.options)
    factor = rules.memory_factor * task.memory_factor
    if given.get("fast-orthophoto") is True:
        factor *= rules.fast_orthophoto_factor
    if given.get("dsm") is True or given.get("dtm") is True:
        factor *= rules.dem_factor
    return factor


def _given(options: tuple[Setting, ...]) -> Mapping[str, Any]:
    return {setting.name: setting.value for setting in options}


def _peak_gib(images: int) -> float:
    """Linear between the table's points, and beyond its ends with the slope of the last pair."""
    points = PEAKS_GIB
    above = next((place for place, (count, _) in enumerate(points) if images <= count), len(points) - 1)
    upper = max(1, above)
    (count_a, gib_a), (count_b, gib_b) = points[upper - 1], points[upper]
    return gib_a + (gib_b - gib_a) * (images - count_a) / (count_b - count_a)


def _mib(gib: float) -> int:
    return math.ceil(gib * 1024)
