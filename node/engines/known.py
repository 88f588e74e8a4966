"""Which engine a node's settings name."""

from node.engines import Engine
from node.engines.odm import odm_engine
from node.engines.orthomosaic import ORTHOMOSAIC


class EngineUnknown(Exception):
    """The settings name no engine that is known here."""


def engine_named(name: str, command: str | None) -> Engine:
    """The engine of this name; ODM needs the command that runs it."""
    if name == ORTHOMOSAIC.name:
        return ORTHOMOSAIC
    if name == "odm" and command:
        return odm_engine(command)
    if name == "odm":
        raise EngineUnknown(
            "SCALEODM_NODE_ENGINE is odm: set SCALEODM_NODE_ENGINE_COMMAND to what runs it, as /code/run.sh."
        )
    raise EngineUnknown(f"SCALEODM_NODE_ENGINE is {name!r}; known are orthomosaic and odm.")
