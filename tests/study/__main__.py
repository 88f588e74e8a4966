"""`make study`: how long tasks wait under our policy and others; tables, `docs/policy-study.md` and its plot."""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from tests.study.plot import draw
from tests.study.report import document, show
from tests.study.scenarios import Scale, study


def main() -> None:
    """Run the whole study and write it down."""
    parser = argparse.ArgumentParser(prog="python -m tests.study", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (default: %(default)s)")
    given = parser.parse_args()
    if given.seeds < 1 or given.processes < 1:
        parser.error("--seeds and --processes: at least 1")
    scale, seeds, console = Scale(), range(1, given.seeds + 1), Console()
    began = time.monotonic()
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        results = study(
            scale, seeds, lambda title: console.print(f"{time.monotonic() - began:5.0f} s  {title}"), pool.map
        )
    show(scale, results, console)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "policy-study.md").write_text(document(scale, results, seeds))
    draw(scale, results, given.out / "policy-study.svg", len(seeds))
    console.print(f"written: {given.out / 'policy-study.md'}, {given.out / 'policy-study.svg'}")


if __name__ == "__main__":
    main()
