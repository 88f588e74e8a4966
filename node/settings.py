"""The node's settings, from the environment (README lists them)."""

import socket
from pathlib import Path
from typing import Literal

from pydantic import AnyHttpUrl, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.settings import Switch


class NodeSettings(BaseSettings):
    """`SCALEODM_NODE_…`."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_NODE_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=3001, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    name: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """The node's name in the federation. Joining again under the same name is the same node."""
    url: AnyHttpUrl | None = None
    """How the router reaches this node; default `http://host:port`."""
    data: Path = Path("scaleodm-node")
    """Folder for tasks and workspaces."""
    slots: int = Field(default=1, ge=1, le=1000)
    """Tasks that run at once."""
    max_images: int | None = Field(default=None, ge=1)
    """Images that one task may have; unset means no limit."""
    backend: Literal["local"] = "local"
    """Where runs happen."""
    engine: str = "orthomosaic"
    """Which engine runs them: `orthomosaic`, or `odm`."""
    engine_command: str | None = None
    """What runs ODM, such as `/code/run.sh`; only for the engine `odm`."""
    user_token: SecretStr | None = None
    """Token for clients that use this node directly."""
    auth: Switch = Switch.ON
    """`off` lets everybody in."""
    router_url: AnyHttpUrl | None = None
    """The router to join; unset means a node on its own."""
    join_token: SecretStr | None = None
    """The router's node token."""
    labels: dict[str, str] = Field(default_factory=dict)
    """JSON object of labels that placement may use."""

    @model_validator(mode="after")
    def _check_access(self) -> "NodeSettings":
        if self.auth is Switch.ON and self.user_token is None and self.router_url is None:
            raise ValueError(
                "nobody could use this node: set SCALEODM_NODE_USER_TOKEN, or SCALEODM_NODE_ROUTER_URL to join a "
                "router, or switch authentication off on purpose with SCALEODM_NODE_AUTH=off"
            )
        if self.router_url is not None and self.join_token is None:
            raise ValueError(
                "SCALEODM_NODE_ROUTER_URL is set, so SCALEODM_NODE_JOIN_TOKEN (the router's node token) is needed"
            )
        return self
