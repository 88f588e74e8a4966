"""What a task takes of a cluster, as `docs/operating.md` tells it: by the very function that sizes Jobs."""

from common.nodeodm.options import Setting
from node.sizing import BYTES_PER_IMAGE, PEAKS_GIB, Rules, Size, size_of
from tests.common.nodeodm.test_messages import task

_HEAD = (
    "| images | memory: request, limit | with `fast-orthophoto` | with `dsm` or `dtm` | cores | scratch disk |",
    "|---:|---:|---:|---:|---:|---:|",
)


def table() -> str:
    """A row for each point of the built-in table, with the rules as they are by default."""
    return "\n".join([*_HEAD, *(_row(images) for images, _ in PEAKS_GIB)]) + "\n"


def _row(images: int) -> str:
    plain, fast, dem = (_size(images, *names) for names in ((), ("fast-orthophoto",), ("dsm",)))
    memory = " | ".join(
        f"{_gib(each.memory_request_mib)}, {_gib(each.memory_limit_mib)} GiB" for each in (plain, fast, dem)
    )
    return f"| {images:,} | {memory} | {plain.cpu_request_milli / 1000:g} | {_gib(plain.disk_mib)} GiB |"


def _size(images: int, *options: str) -> Size:
    given = tuple(Setting(name, True) for name in options)
    return size_of(task(images_count=images, input_bytes=images * BYTES_PER_IMAGE, options=given), Rules())


def _gib(mib: int) -> str:
    return f"{mib / 1024:,.0f}"
