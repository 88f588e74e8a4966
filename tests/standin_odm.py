"""A stand-in for ODM: its command line, log, exit codes and result tree, in milliseconds.

The nodes of the contract tests run it as a real process. What it shall do stands in the project's `gcp_list.txt`,
one order a line: `sleep SECONDS`, `say TEXT`, `exit CODE`, `ignore-sigterm`, `no-products`, `megabytes COUNT`,
`lines COUNT`, `oom`, `hog MEGABYTES`, `environment` (tells the names of its variables), `until FILE` (works until that
file is there), `cut FILE` (only half of that product reaches the disk), `lose FILE` (none of it does).
"""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

STAGES = "dataset split merge opensfm openmvs odm_filterpoints odm_meshing mvs_texturing odm_georeferencing odm_dem"
LAST_STAGES = "odm_orthophoto odm_report odm_postprocess"


def say(line: str) -> None:
    """One line of log, at once."""
    print(line, flush=True)


def orders(project: Path) -> list[list[str]]:
    """What the test wants."""
    path = project / "gcp_list.txt"
    text = path.read_text() if path.exists() else ""
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def main() -> int:
    """Process one dataset."""
    # As ODM has it: at once, with the exit code of an error (contract 9.4).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    arguments = sys.argv[1:]
    project = Path(arguments[arguments.index("--project-path") + 1]) / arguments[-1]
    products = True
    cut_off: list[str] = []
    lost: list[str] = []
    side_files = sorted(path.name for path in project.glob("*.txt"))
    say(f"[INFO]    Initializing stand-in - {' '.join(a for a in arguments if a.startswith('--'))} {side_files}")
    for stage in STAGES.split():
        say(f"[INFO]    Running {stage} stage")
        say(f"[INFO]    Finished {stage} stage")
    for order, *rest in orders(project):
        match order:
            case "sleep":
                time.sleep(float(rest[0]))
            case "until":
                while not Path(rest[0]).exists():
                    time.sleep(0.05)
            case "say":
                say(rest[0])
            case "environment":
                say(f"environment: {' '.join(sorted(os.environ))}")
            case "exit":
                return int(rest[0])
            case "ignore-sigterm":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case "no-products":
                products = False
            case "lines":
                for number in range(int(rest[0])):
                    print(f"line {number}")
                sys.stdout.flush()
            case "hog":
                held = [bytearray(os.urandom(2**20)) for _ in range(int(rest[0]))]
                say(f"held {len(held)} MiB, and nobody minded")
                return 1
            case "oom":
                (project / ".oom").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "megabytes":
                save_raster(project / "odm_dem" / "dsm.tif", int(rest[0]) * 2**20)
            case "cut":
                cut_off.append(rest[0])
            case "lose":
                lost.append(rest[0])
    if products:
        make_products(project, arguments)
    for name in lost:
        (project / name).unlink(missing_ok=True)
    for name in cut_off:
        os.truncate(project / name, (project / name).stat().st_size // 2)
    for stage in LAST_STAGES.split():
        say(f"[INFO]    Running {stage} stage")
        say(f"[INFO]    Finished {stage} stage")
    say("[INFO]    ODM app finished - now")
    return 0


def make_products(project: Path, arguments: list[str]) -> None:
    """A small result tree, with the arguments in it for tests to see."""
    images = sorted(path.name for path in (project / "images").iterdir())
    if "--skip-orthophoto" not in arguments:
        save_raster(project / "odm_orthophoto" / "odm_orthophoto.tif", 1024)
    for name in ("dsm", "dtm"):
        path = project / "odm_dem" / f"{name}.tif"
        if f"--{name}" in arguments and not path.exists():
            save_raster(path, 1024)
    (project / "odm_report").mkdir(exist_ok=True)
    (project / "odm_report" / "stats.json").write_text(json.dumps({"arguments": arguments, "images": images}))
    (project / "images.json").write_text(json.dumps([{"filename": name} for name in images]))
    (project / "log.json").write_text("{}")


def save_raster(path: Path, size: int) -> None:
    """A TIFF of `size` bytes with a grey picture of noise, of one strip."""
    tags = [(256, 4, 256), (257, 4, (size - 256) // 256), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1)]
    tags += [(278, 4, (size - 256) // 256), (273, 4, 256), (279, 4, size - 256)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags)) + bytes(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head.ljust(256, b"\x00"))
        for begin in range(256, size, 2**20):
            file.write(os.urandom(min(2**20, size - begin)))


if __name__ == "__main__":
    sys.exit(main())
