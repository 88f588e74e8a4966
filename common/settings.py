"""Settings that router and node share, and how problems with any setting are told (style 7.7)."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from common.references import Reference

S = TypeVar("S", bound=BaseSettings)


class Switch(StrEnum):
    """On or off, said in words."""

    ON = "on"
    OFF = "off"


class Readers(StrEnum):
    """Who may read the figures."""

    TOKEN = "token"  # noqa: S105 - a word
    """Whoever has the token for that, or may do anything here."""
    OPEN = "open"
    """Everybody."""
    OFF = "off"
    """Nobody: there are none."""


class SettingsUnusable(Exception):
    """One or more settings are missing or wrong; the text names each with what was expected."""


class S3Settings(BaseSettings):
    """Where S3 is. The names are those that every S3 tool reads."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    endpoint: str | None = Field(default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    """Where router, nodes and Jobs reach S3; unset means AWS itself."""
    public_endpoint: str | None = Field(default=None, validation_alias="SCALEODM_S3_PUBLIC_ENDPOINT_URL")
    """Where clients reach S3: presigned URLs are made for this address. Default: the same endpoint."""
    endpoints: list[str] = Field(default_factory=list, validation_alias="SCALEODM_S3_ENDPOINTS")
    """JSON list of other S3s that a task may name as `s3Endpoint`; they are opened with the same keys."""
    region: str = Field(default="us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))
    """Region."""
    access_key_id: str | None = Field(default=None, validation_alias="AWS_ACCESS_KEY_ID")
    """Access key; unset means that boto3 looks for keys in its own ways, such as a machine's role."""
    secret_access_key: SecretStr | None = Field(default=None, validation_alias="AWS_SECRET_ACCESS_KEY")
    """Secret key; likewise."""
    session_token: SecretStr | None = Field(default=None, validation_alias="AWS_SESSION_TOKEN")
    """Session token of short-lived keys."""
    credentials_url: str | None = Field(default=None, validation_alias="SCALEODM_CREDENTIALS_URL")
    """Set by a node in its pods: where they get short-lived credentials."""
    credentials_token: SecretStr | None = Field(default=None, validation_alias="SCALEODM_CREDENTIALS_TOKEN")
    """Set by a node in its pods: what opens that."""
    sts_role_arn: str | None = Field(default=None, validation_alias="SCALEODM_S3_STS_ROLE_ARN")
    """Role that a node assumes, to give each Job credentials that reach its own input and output only."""
    sts_endpoint: str | None = Field(default=None, validation_alias="AWS_ENDPOINT_URL_STS")
    """Where STS is; unset means AWS itself, or S3's own endpoint where one is set."""
    staging: str = Field(validation_alias="SCALEODM_STAGING")
    """`s3://bucket/prefix/` of our own, for uploads and their products."""

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, value: list[str]) -> list[str]:
        for each in value:
            if not re.fullmatch(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?/?", each):
                raise ValueError(f"{each!r} is no address of an S3; expected such as https://s3.example.org")
        return value

    @property
    def staging_reference(self) -> Reference:
        """The staging prefix, read."""
        return Reference.parse(self.staging).as_prefix()


class InputSettings(BaseSettings):
    """What router, nodes and Jobs let a task's input do."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_INPUT_", frozen=True, extra="ignore")

    private: Switch = Switch.OFF
    """`on` lets a `zipurl` over http lead to addresses of private networks."""
    most_gib: float = Field(default=500, gt=0)
    """GiB that one task may fetch by its `zipurl` over http, and as many that its archives may unpack to."""
    link_gib: float = Field(default=2, gt=0)
    """GiB that are reckoned with for a `zipurl` over http, whose size nobody knows before its run."""


class TailscaleSettings(BaseSettings):
    """Where this machine's tailscaled is asked, by nodes and by routers (docs/joining.md)."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_TAILSCALE_", frozen=True, extra="ignore")

    # Never a place where everybody may write: whoever answers there says who calls.
    socket: Path = Path("/var/run/tailscale/tailscaled.sock")
    """Unix socket of tailscaled; where Tailscale runs in a container beside this one, as that has it in `TS_SOCKET`."""


class LogSettings(BaseSettings):
    """What every program writes to standard error."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_LOG_", frozen=True, extra="ignore")

    format: Literal["text", "json"] = "text"
    """`text`, for people, or `json`: one object a line (docs/monitoring.md)."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity that is written: `DEBUG`, `INFO`, `WARNING` or `ERROR`."""

    @field_validator("level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


def read_settings(kind: type[S]) -> S:
    """Read settings of this kind from the environment; every problem at once as `SettingsUnusable`."""
    try:
        return kind()
    except ValidationError as broken:
        problems = [_told(kind, problem["loc"], problem["msg"]) for problem in broken.errors(include_input=False)]
        raise SettingsUnusable("Some settings cannot be used:\n" + "\n".join(problems)) from None
    except SettingsError as broken:
        field = re.search(r'field "(\w+)"', str(broken))
        told = _told(kind, (field.group(1) if field else "?",), 'expected JSON, such as ["a", "b"] or {"a": "b"}')
        raise SettingsUnusable("Some settings cannot be used:\n" + told) from None


def _told(kind: type[BaseSettings], location: tuple[int | str, ...], message: str) -> str:
    name = str(location[0]) if location else kind.__name__
    prefix = str(kind.model_config.get("env_prefix", ""))
    variable = name if name.isupper() else (prefix + name).upper()
    return f"  {variable}: {message}"
