"""Settings that router and node share, and how problems with any setting are told (style 7.7)."""

from enum import StrEnum
from typing import TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.references import Reference

S = TypeVar("S", bound=BaseSettings)


class Switch(StrEnum):
    """On or off, said in words."""

    ON = "on"
    OFF = "off"


class SettingsUnusable(Exception):
    """One or more settings are missing or wrong; the text names each with what was expected."""


class S3Settings(BaseSettings):
    """Where S3 is. The names are those that every S3 tool reads."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    endpoint: str | None = Field(default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    """Where router, nodes and Jobs reach S3; unset means AWS itself."""
    public_endpoint: str | None = Field(default=None, validation_alias="SCALEODM_S3_PUBLIC_ENDPOINT_URL")
    """Where clients reach S3: presigned URLs are made for this address. Default: the same endpoint."""
    region: str = Field(default="us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))
    access_key_id: str | None = Field(default=None, validation_alias="AWS_ACCESS_KEY_ID")
    secret_access_key: SecretStr | None = Field(default=None, validation_alias="AWS_SECRET_ACCESS_KEY")
    session_token: SecretStr | None = Field(default=None, validation_alias="AWS_SESSION_TOKEN")
    staging: str = Field(validation_alias="SCALEODM_STAGING")
    """`s3://bucket/prefix/` of our own, for uploads and their products."""

    @property
    def staging_reference(self) -> Reference:
        """The staging prefix, read."""
        return Reference.parse(self.staging).as_prefix()


def read_settings(kind: type[S]) -> S:
    """Read settings of this kind from the environment; every problem at once as `SettingsUnusable`."""
    try:
        return kind()
    except ValidationError as broken:
        problems = [_told(kind, problem["loc"], problem["msg"]) for problem in broken.errors(include_input=False)]
        raise SettingsUnusable("Some settings cannot be used:\n" + "\n".join(problems)) from None


def _told(kind: type[BaseSettings], location: tuple[int | str, ...], message: str) -> str:
    name = str(location[0]) if location else kind.__name__
    prefix = str(kind.model_config.get("env_prefix", ""))
    variable = name if name.isupper() else (prefix + name).upper()
    return f"  {variable}: {message}"
