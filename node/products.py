"""What a run should have made, and whether it is whole, as it lies in the project's folder."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common import products, publishing
from common.products import Expected
from node.runs import Order

STOPS_AT_RECONSTRUCTION = "opensfm/split_merge_stop_at_reconstruction.txt"
"""A seed with this file makes ODM stop after its stage `opensfm` (contract 9.2)."""


def expected(order: Order, project: Path) -> list[Expected]:
    """What the engine must have left in the project, given the task's options, and of that what will be published."""
    stops_early = (project / STOPS_AT_RECONSTRUCTION).exists()
    return products.expected(order.engine, order.options, order.outputs, stops_early)


def check(project: Path, found: Sequence[PurePosixPath], asked: Sequence[str], wanted: Sequence[Expected] = ()) -> None:
    """Look at what is about to be published. Raises `ProductsMissing` with the file and what is wrong with it."""
    publishing.check_sizes({str(path): (project / path).stat().st_size for path in found}, asked)
    present = [project / each.path for each in wanted if (project / each.path).is_file()]
    products.check_made({path.relative_to(project).as_posix(): path.stat().st_size for path in present}, wanted)
    for path in found:
        if products.is_raster(str(path)):
            with (project / path).open("rb") as file:
                products.check_raster(str(path), file, (project / path).stat().st_size)
