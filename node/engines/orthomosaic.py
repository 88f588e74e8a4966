"""`pyorthomosaic` as an engine: a real photogrammetry engine from PyPI behind ODM's command line (design 8)."""

import os
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.options import Option
from node.engines import Engine

HONOURED = (
    "min-num-features",
    "feature-quality",
    "matcher-neighbors",
    "max-concurrency",
    "skip-report",
    "skip-orthophoto",
    "ignore-gsd",
    "fast-orthophoto",
    "pc-quality",
    "pc-classify",
    "pc-las",
    "dtm",
    "dsm",
    "dem-gapfill-steps",
    "dem-resolution",
    "orthophoto-resolution",
    "rolling-shutter",
    "rolling-shutter-readout",
    "gps-accuracy",
)
"""ODM's options that the engine does as ODM says. All others are absent from its list."""

_DIFFERENT: dict[str, dict[str, str]] = {
    "min-num-features": {
        "value": "0",
        "help": "How many features to look for in each image; 0 lets the engine choose by image size. "
        "Default: %(default)s",
    },
    "max-concurrency": {"value": str(os.cpu_count() or 1)},
}


def _honoured() -> tuple[Option, ...]:
    by_name = {option.name: option for option in ODM_OPTIONS}
    return tuple(replace(by_name[name], **_DIFFERENT.get(name, {})) for name in HONOURED)


def _version() -> str:
    """Empty where it is not installed: a node that runs ODM, or Jobs, has no need of it."""
    try:
        return version("pyorthomosaic")
    except PackageNotFoundError:
        return ""


ORTHOMOSAIC = Engine(
    name="orthomosaic",
    version=_version(),
    command=(sys.executable, "-m", "node.engines.orthomosaic_run"),
    options=_honoured(),
)
