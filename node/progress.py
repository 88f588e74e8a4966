"""Engine log line → stage and percent, with ODM's own weights (contract 9.2, 9.3). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

STAGE_ENDS: Mapping[str, float] = {
    "dataset": 5,
    "split": 5,
    "merge": 5,
    "opensfm": 25,
    "openmvs": 50,
    "odm_filterpoints": 52,
    "odm_meshing": 60,
    "mvs_texturing": 70,
    "odm_georeferencing": 80,
    "odm_dem": 90,
    "odm_orthophoto": 98,
    "odm_report": 99,
    "odm_postprocess": 100,
}
"""Overall percent at which each stage ends, for a dataset that is not split."""
_STAGE_LINE = re.compile(r"^\[INFO\]\s+(Running|Finished) (\w+) stage$")
_SHARE_LINE = re.compile(r"\b(\d+)/(\d+) (?:depth maps|images|pairs|blocks)\b")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an engine has come: its stage and the overall percent, 0 to 100, never going back."""

    stage: str = ""
    percent: float = 0.0


def advance(progress: Progress, line: str) -> Progress:
    """The progress after one more line of the engine's log."""
    found = _STAGE_LINE.match(line)
    if found and found.group(2) in STAGE_ENDS:
        what, stage = found.groups()
        percent = STAGE_ENDS[stage] if what == "Finished" else stage_begin(stage)
        return Progress(stage, max(progress.percent, percent))
    if "ODM app finished" in line:
        return Progress(progress.stage, 100.0)
    return _within_stage(progress, line)


def stage_begin(stage: str) -> float:
    """Overall percent at which a stage begins: where the one before it ends."""
    ends = list(STAGE_ENDS.values())
    place = list(STAGE_ENDS).index(stage)
    return ends[place - 1] if place else 0.0


def _within_stage(progress: Progress, line: str) -> Progress:
    """Long stages count their work aloud, as in `12/48 depth maps`."""
    found = _SHARE_LINE.search(line)
    if not found or progress.stage not in STAGE_ENDS:
        return progress
    done, of = int(found.group(1)), int(found.group(2))
    if not 0 < done <= of:
        return progress
    begin, end = stage_begin(progress.stage), STAGE_ENDS[progress.stage]
    return replace(progress, percent=max(progress.percent, begin + (end - begin) * done / of))
