"""The router's settings, from the environment (README lists them)."""

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.settings import Switch


class RouterSettings(BaseSettings):
    """`SCALEODM_ROUTER_…`."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_ROUTER_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=3000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    database_url: SecretStr
    """`postgresql://user:password@host:port/database`."""
    secret_key: SecretStr
    """At least 32 characters, the same for all replicas: the nodes' secrets are derived from it."""
    user_token: SecretStr | None = None
    """First user token: opens the NodeODM API."""
    node_token: SecretStr | None = None
    """First node token: opens joining."""
    admin_token: SecretStr | None = None
    """First admin token: opens the administration, where further tokens are made."""
    auth: Switch = Switch.ON
    """`off` lets everybody in."""

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("expected postgresql://user:password@host:port/database")
        return value

    @field_validator("secret_key")
    @classmethod
    def _check_key(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 32:
            raise ValueError("expected at least 32 characters; make one with: openssl rand -hex 32")
        return value

    @model_validator(mode="after")
    def _check_access(self) -> "RouterSettings":
        if self.auth is Switch.ON and self.admin_token is None:
            raise ValueError(
                "nobody could use this router: set SCALEODM_ROUTER_ADMIN_TOKEN, or switch authentication off on "
                "purpose with SCALEODM_ROUTER_AUTH=off"
            )
        return self
