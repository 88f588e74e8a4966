"""Which engine a node's settings name."""

from dataclasses import replace

from node.engines import Engine
from node.engines.odm import image_engine, odm_engine
from node.engines.orthomosaic import ORTHOMOSAIC


class EngineUnknown(Exception):
    """The settings name no engine that is known here."""


def engine_here(name: str | None, command: str | None) -> Engine:
    """The engine of this name on this machine; ODM needs the command that runs it."""
    if name != "odm":
        if not ORTHOMOSAIC.version:
            raise EngineUnknown(
                "SCALEODM_NODE_ENGINE is orthomosaic, and pyorthomosaic is not installed: install scaleodm[engine], or "
                "set SCALEODM_NODE_ENGINE to odm."
            )
        return ORTHOMOSAIC
    if not command:
        raise EngineUnknown(
            "SCALEODM_NODE_ENGINE is odm: set SCALEODM_NODE_ENGINE_COMMAND to what runs it, as /code/run.sh."
        )
    return odm_engine(command)


def engine_in_image(name: str | None, command: str | None, image: str) -> Engine:
    """The engine of this name in a container image."""
    if name == ORTHOMOSAIC.name:
        return replace(ORTHOMOSAIC, command=("python", "-m", "node.engines.orthomosaic_run"))
    return image_engine(image, command)
