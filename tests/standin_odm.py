"""A stand-in for ODM: its command line, log, exit codes and result tree, in milliseconds.

The nodes of the contract tests run it as a real process. What it shall do stands in the file that `--gcp` names,
one order a line: `sleep SECONDS`, `say TEXT`, `exit CODE`, `ignore-sigterm`, `no-products`, `megabytes COUNT`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STAGES = "dataset split merge opensfm openmvs odm_filterpoints odm_meshing mvs_texturing odm_georeferencing odm_dem"
LAST_STAGES = "odm_orthophoto odm_report odm_postprocess"


def say(line: str) -> None:
    """One line of log, at once."""
    print(line, flush=True)


def orders(arguments: list[str]) -> list[list[str]]:
    """What the test wants."""
    for argument in arguments:
        if argument.startswith("--gcp="):
            text = Path(argument.removeprefix("--gcp=")).read_text()
            return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return []


def main() -> int:
    """Process one dataset."""
    arguments = sys.argv[1:]
    project = Path(arguments[arguments.index("--project-path") + 1]) / arguments[-1]
    products = True
    say(f"[INFO]    Initializing stand-in - {' '.join(a for a in arguments if a.startswith('--'))}")
    for stage in STAGES.split():
        say(f"[INFO]    Running {stage} stage")
        say(f"[INFO]    Finished {stage} stage")
    for order, *rest in orders(arguments):
        match order:
            case "sleep":
                time.sleep(float(rest[0]))
            case "say":
                say(rest[0])
            case "exit":
                return int(rest[0])
            case "ignore-sigterm":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "no-products":
                products = False
            case "megabytes":
                path = project / "odm_dem" / "dsm.tif"
                path.parent.mkdir(parents=True)
                path.write_bytes(os.urandom(int(rest[0]) * 2**20))
    if products:
        make_products(project, arguments)
    for stage in LAST_STAGES.split():
        say(f"[INFO]    Running {stage} stage")
        say(f"[INFO]    Finished {stage} stage")
    say("[INFO]    ODM app finished - now")
    return 0


def make_products(project: Path, arguments: list[str]) -> None:
    """A small result tree, with the arguments in it for tests to see."""
    images = sorted(path.name for path in (project / "images").iterdir())
    (project / "odm_orthophoto").mkdir(parents=True, exist_ok=True)
    (project / "odm_orthophoto" / "odm_orthophoto.tif").write_bytes(b"II*\x00 not really a picture")
    (project / "odm_report").mkdir(exist_ok=True)
    (project / "odm_report" / "stats.json").write_text(json.dumps({"arguments": arguments, "images": images}))
    (project / "images.json").write_text(json.dumps([{"filename": name} for name in images]))
    (project / "log.json").write_text("{}")


if __name__ == "__main__":
    sys.exit(main())
