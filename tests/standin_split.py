"""A stand-in for ODM's split-merge: cuts a survey, has its parts processed here and by `--sm-cluster`, merges them.

It goes about it as ODM does (contract 8.3, 9.2): two passes over the parts, here one at a time and remotely at once,
with PyODM as the client; what is not split goes to the other stand-in. In the project's `gcp_list.txt` a line
`part ORDER` is an order for every part, such as `part sleep 2`. The orthophoto is a raster of one row per image, the
image's SHA-256, so that a product tells exactly what is in it.

`STANDIN_RETRY_S` and `STANDIN_POLL_S` shorten ODM's own waits of 10 and 3 seconds.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image
from pyodm import Node
from pyodm.api import Task
from pyodm.exceptions import NodeConnectionError, OdmError, TaskFailedError
from pyodm.types import TaskInfo, TaskStatus

from tests.standin_odm import main as process_whole
from tests.standin_odm import orders, say

MOST_TRIES = 5
RETRY_S = float(os.environ.get("STANDIN_RETRY_S", "10"))
POLL_S = float(os.environ.get("STANDIN_POLL_S", "3"))
STOP = "opensfm/split_merge_stop_at_reconstruction.txt"
RECONSTRUCTION = "opensfm/reconstruction.json"
CUT = "odm_orthophoto/odm_orthophoto_cut.tif"


# One part


def reconstruct(project: Path) -> None:
    """The first pass: what OpenSfM makes of a part's images."""
    for needed in ("exif", "camera_models.json", "reference_lla.json"):
        assert (project / "opensfm" / needed).exists(), f"the seed did not bring opensfm/{needed}"
    obey(project)
    names = images_of(project)
    for folder in ("features", "matches"):
        (project / "opensfm" / folder).mkdir(exist_ok=True)
        for name in names:
            (project / "opensfm" / folder / f"{name}.npz").write_text(digest(project / "images" / name))
    (project / RECONSTRUCTION).write_text(json.dumps(names))
    (project / "opensfm/tracks.csv").write_text("\n".join(names))
    (project / "cameras.json").write_text("{}")


def finish(project: Path) -> None:
    """The second pass: the products of a part."""
    assert json.loads((project / RECONSTRUCTION).read_text()) == images_of(project), "not this part's reconstruction"
    obey(project)
    for folder in ("odm_orthophoto", "odm_dem", "odm_report", "odm_georeferencing"):
        (project / folder).mkdir(exist_ok=True)
    rows = [bytes.fromhex(digest(project / "images" / name)) for name in images_of(project)]
    for name in ("odm_orthophoto_cut.tif", "odm_orthophoto_feathered.tif"):
        save_raster(project / "odm_orthophoto" / name, rows)
    (project / "odm_orthophoto/cutline.gpkg").write_bytes(b"a cutline")
    save_raster(project / "odm_dem/dsm.tif", rows)
    (project / "odm_report/stats.json").write_text(json.dumps(images_of(project)))
    (project / "odm_georeferencing/odm_georeferenced_model.laz").write_bytes(b"LASF")


def obey(project: Path) -> None:
    """What the test wants of every part."""
    for order, *rest in orders(project):
        match order:
            case "sleep":
                time.sleep(float(rest[0]))
            case "until":
                while not Path(rest[0]).exists():
                    time.sleep(0.05)
            case "exit":
                raise SystemExit(int(rest[0]))
            case "say":
                say(rest[0])


def images_of(project: Path) -> list[str]:
    """Names of a project's images."""
    return sorted(path.name for path in (project / "images").iterdir())


def digest(path: Path) -> str:
    """What stands for an image in the products."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_raster(path: Path, rows: Sequence[bytes]) -> None:
    """A grey picture of one row of pixels per digest."""
    Image.frombytes("L", (32, len(rows)), b"".join(rows)).save(path)


def rows_of(path: Path) -> list[bytes]:
    """The digests in such a picture."""
    with Image.open(path) as picture:
        pixels = picture.tobytes()
    return [pixels[begin : begin + 32] for begin in range(0, len(pixels), 32)]


@dataclass(frozen=True)
class Pass:
    """One of the two: what it does with a part here, and what it sends and wants back."""

    name: str
    here: Callable[[Path], None]
    seed: tuple[str, ...]
    flags: tuple[str, ...]
    outputs: tuple[str, ...]


RECONSTRUCTIONS = Pass(
    "reconstruction",
    reconstruct,
    ("opensfm/exif", "opensfm/camera_models.json", "opensfm/reference_lla.json"),
    (STOP,),
    ("opensfm/matches", "opensfm/features", RECONSTRUCTION, "opensfm/tracks.csv", "cameras.json"),
)
TOOLCHAINS = Pass(
    "toolchain",
    finish,
    ("opensfm/camera_models.json", "opensfm/reference_lla.json", RECONSTRUCTION, "opensfm/tracks.csv"),
    ("opensfm/features/empty", "opensfm/matches/empty", "opensfm/exif/empty"),
    (
        "odm_orthophoto/cutline.gpkg",
        CUT,
        "odm_orthophoto/odm_orthophoto_feathered.tif",
        "odm_dem",
        "odm_report",
        "odm_georeferencing",
    ),
)


# All parts


class Full(Exception):
    """The cluster shows a part as waiting: it is to be taken back."""


@dataclass
class Part:
    """One submodel on its way through one pass."""

    folder: Path
    tries: int = 0
    not_before: float = 0.0
    remote: Any = None
    """PyODM's task while the cluster has it."""
    places: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """As the log calls it."""
        return self.folder.name


class Crew:
    """Processes the parts of one pass: one at a time here, and on the cluster as many as it shows room for."""

    def __init__(self, node: Any, work: Pass, parts: list[Part], options: dict[str, object]) -> None:
        """`node`: PyODM's, None without a cluster; `options`: what each part is sent with."""
        self._node, self._work, self._options = node, work, options
        self._count = len(parts)
        self._queue: queue.Queue[Part] = queue.Queue()
        for part in parts:
            self._queue.put(part)
        self._lock = threading.Lock()
        self._busy_here = False
        self._sent: list[Part] = []
        self._most_sent: int | None = None
        self._done = 0
        self._monitors: list[threading.Thread] = []
        self.error: Exception | None = None

    def work(self) -> None:
        """Until every part is done; raises what made it fail."""
        threads = [threading.Thread(target=self._work_here)]
        if self._node is not None:
            threads.append(threading.Thread(target=self._send_parts))
        for thread in threads:
            thread.start()
        for thread in [*threads, *self._monitors]:
            thread.join()
        while monitors := [each for each in self._monitors if each.is_alive()]:
            monitors[0].join()
        self.take_all_back()
        if self.error is not None:
            raise self.error

    def take_all_back(self) -> None:
        """Nothing of ours stays on the cluster."""
        for part in list(self._sent):
            self._remove(part)

    @property
    def _is_over(self) -> bool:
        return self._done >= self._count or self.error is not None

    def _next(self) -> Part | None:
        while not self._is_over:
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def _work_here(self) -> None:
        while (part := self._next()) is not None:
            self._busy_here = True
            try:
                say(f"[INFO]    LRE: About to process {part} locally")
                self._work.here(part.folder)
            except Exception as failed:  # noqa: BLE001 - whatever it is, it is tried again
                self._failed(part, failed)
            else:
                self._ended(part, f"{self._work.name} here")
            finally:
                self._busy_here = False

    def _send_parts(self) -> None:
        while (part := self._next()) is not None:
            most = self._most_sent
            if not self._busy_here or (most is not None and len(self._sent) >= most) or time.time() < part.not_before:
                # Others first: this machine, which is free anyway, or what the cluster has already.
                self._queue.put(part)
                time.sleep(0.05)
                continue
            try:
                say(f"[INFO]    LRE: About to process {part} remotely")
                self._send(part)
            except Exception as failed:  # noqa: BLE001 - likewise
                self._failed(part, failed)

    def _send(self, part: Part) -> None:
        seed = part.folder / "seed.zip"
        files = [str(path) for path in sorted((part.folder / "images").iterdir())]
        files += [str(path) for path in (part.folder / "gcp_list.txt", part.folder / "geo.txt") if path.exists()]
        pack(seed, part.folder, self._work.seed, self._work.flags)
        part.remote = self._node.create_task(
            [*files, str(seed)], self._options, skip_post_processing=True, outputs=list(self._work.outputs)
        )
        seed.unlink()
        self._sent.append(part)
        status = part.remote.info().status
        if status is TaskStatus.QUEUED:
            raise Full("it waits at once")
        if status not in (TaskStatus.RUNNING, TaskStatus.COMPLETED):
            raise OdmError(f"the cluster shows it as {status}")
        monitor = threading.Thread(target=self._monitor, args=(part, part.remote))
        self._monitors.append(monitor)
        monitor.start()

    def _monitor(self, part: Part, task: Task) -> None:
        def look(info: TaskInfo) -> None:
            if info.status is TaskStatus.QUEUED:
                raise Full("it has waited for long")

        try:
            task.wait_for_completion(status_callback=look, interval=POLL_S)
            task.download_assets(str(part.folder))
        except TaskFailedError as failed:
            said = task.output()
            (part.folder / "error.log").write_text("\n".join(said))
            self._failed(part, TaskFailedError(f"{failed}: {said[-10:]}"))
        except Exception as failed:  # noqa: BLE001 - likewise
            self._failed(part, failed)
        else:
            self._ended(part, f"{self._work.name} there")

    def _ended(self, part: Part, place: str) -> None:
        part.places.append(place)
        self._remove(part)
        say(f"[INFO]    LRE: {part} finished successfully: {place}")
        with self._lock:
            self._done += 1

    def _failed(self, part: Part, failed: Exception) -> None:
        say(f"[WARNING] LRE: {part} failed with: {type(failed).__name__} {failed}")
        full = isinstance(failed, Full)
        if full:
            self._find_limit()
        self._remove(part)
        if isinstance(failed, TaskFailedError) or part.tries >= MOST_TRIES:
            self.error = failed
            return
        part.tries += not full
        part.not_before = time.time() + part.tries * RETRY_S
        say(f"[INFO]    LRE: Re-queueing {part} (retries: {part.tries})")
        self._queue.put(part)

    def _find_limit(self) -> None:
        """How many the cluster processes at once, found out the first time that it has no room."""
        with self._lock:
            if self._most_sent is None:
                self._most_sent = max(1, sum(is_at_work(part.remote) for part in list(self._sent)))
                say(f"[INFO]    LRE: Node task limit reached. Setting max remote tasks to {self._most_sent}")

    def _remove(self, part: Part) -> None:
        if part.remote is None:
            return
        try:
            removed = part.remote.remove()
        except OdmError:
            removed = False
        say(f"[INFO]    LRE: Cleaning up remote task ({part.remote.uuid})... {'OK' if removed else 'NO'}")
        part.remote = None
        if part in self._sent:
            self._sent.remove(part)


def is_at_work(task: Task | None) -> bool:
    """Whether the cluster's engine works on it, as far as its console shows."""
    if task is None:
        return False
    try:
        info = task.info(with_output=-3)
    except OdmError:
        return False
    return bool(info.status is TaskStatus.RUNNING and info.processing_time >= 0 and len(info.output) >= 3)


def pack(seed: Path, folder: Path, paths: Sequence[str], flags: Sequence[str]) -> None:
    """A part's `seed.zip`."""
    with zipfile.ZipFile(seed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in paths:
            path = folder / name
            for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
                archive.write(each, each.relative_to(folder))
        for flag in flags:
            archive.writestr(flag, "")


# The whole survey


def split(project: Path, size: int) -> list[Part]:
    """Cut a project into submodels of so many images."""
    names = images_of(project)
    told = [" ".join(line[1:]) for line in orders(project) if line[0] == "part"]
    parts = []
    for number, begin in enumerate(range(0, len(names), size)):
        folder = project / "submodels" / f"submodel_{number:04d}"
        (folder / "images").mkdir(parents=True)
        (folder / "opensfm/exif").mkdir(parents=True)
        for name in names[begin : begin + size]:
            (folder / "images" / name).write_bytes((project / "images" / name).read_bytes())
            (folder / "opensfm/exif" / f"{name}.exif").write_text("{}")
        for name in ("camera_models.json", "reference_lla.json"):
            (folder / "opensfm" / name).write_text("{}")
        if told:
            (folder / "gcp_list.txt").write_text("\n".join(told))
        parts.append(Part(folder))
    return parts


def merge(project: Path, parts: list[Part]) -> None:
    """The products of all parts as the product of the survey."""
    (project / "odm_orthophoto").mkdir()
    save_raster(
        project / "odm_orthophoto/odm_orthophoto.tif", [row for part in parts for row in rows_of(part.folder / CUT)]
    )
    (project / "odm_report").mkdir()
    (project / "odm_report/stats.json").write_text(json.dumps({str(part): part.places for part in parts}))


def process_large(project: Path, size: int, cluster: str | None) -> None:
    """Split, both passes, merge."""
    parts = split(project, size)
    say(f"[INFO]    Dataset has been split into {len(parts)} submodels. Reconstructing each submodel...")
    options = {"orthophoto-cutline": True, "skip-3dmodel": True, "skip-report": True, "crop": "0.015625", "geo": "x"}
    for work in (RECONSTRUCTIONS, TOOLCHAINS):
        crew = Crew(node_at(cluster), work, parts, options)
        signal.signal(signal.SIGTERM, lambda *_, crew=crew: give_up(crew))
        crew.work()
    merge(project, parts)


def give_up(crew: Crew, *_: FrameType | None) -> None:
    """As ODM is told to end: first nothing of it is left on the cluster."""
    crew.take_all_back()
    os._exit(1)


def node_at(cluster: str | None) -> Any:
    """The cluster, unless it is offline: then everything is processed here."""
    if cluster is None:
        return None
    node = Node.from_url(cluster)
    try:
        say(f"[INFO]    LRE: Node is online and running {node.info().engine}")
    except NodeConnectionError:
        say("[WARNING] LRE: The node seems to be offline!")
        return None
    return node


def option(name: str) -> str | None:
    """The value of one of our arguments."""
    return next((each.partition("=")[2] for each in sys.argv if each.startswith(f"--{name}=")), None)


def main() -> int:
    """Process one dataset."""
    project = Path(sys.argv[sys.argv.index("--project-path") + 1]) / sys.argv[-1]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    size = int(option("split") or 999_999)
    stage = "split" if len(images_of(project)) > size else "opensfm"
    say("[INFO]    Initializing stand-in")
    say(f"[INFO]    sm_cluster: {option('sm-cluster') is not None}")
    say(f"[INFO]    Running {stage} stage")
    if (project / STOP).exists():
        reconstruct(project)
    elif (project / RECONSTRUCTION).exists():
        assert all((project / flag).exists() for flag in TOOLCHAINS.flags), "the seed did not bring its empty files"
        finish(project)
    elif stage == "split":
        cluster = option("sm-cluster")
        if cluster is not None:
            # As ODM does while it reads its arguments: nobody there is an error.
            Node.from_url(cluster).info()
        process_large(project, size, cluster)
    else:
        return process_whole()
    say(f"[INFO]    Finished {stage} stage")
    say("[INFO]    ODM app finished - now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
