"""The router's settings, from the environment (docs/settings.md lists them)."""

import re
from datetime import timedelta

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.federation import LATE_BEATS
from common.settings import Readers, Switch
from common.webhooks import is_web_address
from router.ages import Ages
from router.lifecycle import Clocks
from router.rights import PLACEHOLDER, Right, Rights

_CLUSTER_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>localhost|\d{1,3}(?:\.\d{1,3}){3}|[A-Z0-9](?:[A-Z0-9.-]*[A-Z0-9])?)(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
)
"""Addresses that ODM takes for its `--sm-cluster`, and that have no path, which PyODM would drop."""


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
    """First admin token: opens the administration, where further tokens are made. Needed unless authentication is
    off."""
    auth: Switch = Switch.ON
    """`off` lets everybody in."""
    tailnet_rights: dict[str, Right] = Field(default_factory=dict)
    """What tags and logins of the tailnet may do here without a token (docs/joining.md): JSON object, such as
    `{"tag:scaleodm-node": "node", "ada@example.org": "admin", "bob@example.org": "user:acme"}`."""
    tailnet_capability: str | None = Field(default=None, pattern=r"^[a-z0-9.-]+/[\w./-]+$")
    """App capability of the tailnet's grants that gives such rights too, such as `example.org/cap/scaleodm`."""
    late_after_s: float = Field(default=15, gt=0)
    """Seconds of silence after which a node gets no new work."""
    lost_after_s: float = Field(default=600, gt=0)
    """Seconds of silence after which what a node has begun begins anew elsewhere; a quarter of the time that the run
    has worked, where that is longer, six hours at most."""
    rest_s: float = Field(default=30, ge=0)
    """Seconds for which a node is not tried again with a task that it failed or could not be given."""
    quarantine_s: float = Field(default=300, ge=0)
    """Seconds that a node rests which fails everything at once, for the first time; then twice as long each time, up to
    two hours; 0 switches this off."""
    url: str | None = None
    """How runs on the nodes reach this router, to send it the parts of split tasks (docs/split-merge.md); unset means
    they send none."""
    part_waits_s: float = Field(default=60, gt=0)
    """Seconds that a part of a split task may wait for a slot before its parent is told to process it itself."""
    webhook: SecretStr | None = None
    """URL that is called when any task ends, beside the task's own webhook (docs/webhooks.md)."""
    webhook_secret: SecretStr | None = None
    """Signs the calls of webhooks; unset means they are not signed."""
    webhook_private: Switch = Switch.OFF
    """`on` lets webhooks call addresses of private networks."""

    metrics: Readers = Readers.TOKEN
    """Who may read `/metrics`: `token`, whoever sends the token for that or an admin token; `open`, everybody; `off`,
    nobody (docs/monitoring.md)."""
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    """Token that opens `/metrics` and nothing else; at least 16 characters."""

    dashboard: Switch = Switch.ON
    """`off` leaves the dashboard at `/dashboard` away."""
    dashboard_session_h: float = Field(default=12, gt=0)
    """Hours after which whoever has signed in to the dashboard signs in again."""

    max_images: int | None = Field(default=None, ge=1)
    """Images that one task may have, whatever its node takes; unset means what the nodes take."""
    max_runtime_min: float = Field(default=0, ge=0)
    """Minutes after which a run is canceled, whatever its node allows; 0 means never."""
    cleanup_tasks_min: float = Field(default=2880, ge=0)
    """Minutes after its end when a task goes, with all it left in staging (docs/housekeeping.md); 0 means never."""
    cleanup_uploads_min: float = Field(default=2880, ge=0)
    """Minutes after its last file when an upload goes that was never committed; 0 means never."""
    cleanup_orphans_min: float = Field(default=0, ge=0)
    """Minutes after which what lies in staging under a uuid that this router does not know goes; 0 means never.
    Read docs/housekeeping.md first."""
    history_days: float = Field(default=90, ge=0)
    """Days for which it is remembered how long and where the tasks ran that are gone; 0 means for ever."""
    webhooks_days: float = Field(default=30, ge=0)
    """Days for which it is remembered what became of webhooks; 0 means for ever."""
    events_days: float = Field(default=365, ge=0)
    """Days for which it is remembered who did what when; 0 means for ever."""
    samples_days: float = Field(default=90, ge=0)
    """Days for which it is remembered, minute by minute, how full the federation was; 0 means for ever."""

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

    @field_validator("tailnet_rights")
    @classmethod
    def _check_rights(cls, rights: dict[str, Right]) -> dict[str, Right]:
        if PLACEHOLDER in rights:
            raise ValueError(f"{PLACEHOLDER} stands for every tagged machine; name a tag, such as tag:scaleodm-node")
        return rights

    @property
    def rights(self) -> Rights:
        """Who on the tailnet may do what."""
        return Rights(self.tailnet_rights, self.tailnet_capability)

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_web_address(value.get_secret_value()):
            raise ValueError("expected http://host/path or https://host/path")
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        found = _CLUSTER_URL.fullmatch(value or "http://router")
        is_https = found is not None and found["scheme"].lower() == "https"
        # PyODM, and with it ODM, speaks https on port 443 and nowhere else (contract 8.1).
        if found is None or is_https != ((found["port"] or ("443" if is_https else "80")) == "443"):
            raise ValueError("expected http://host:port, or https://host on port 443 alone: ODM can reach no other")
        return None if value is None else value.rstrip("/")

    @model_validator(mode="after")
    def _check_clocks(self) -> "RouterSettings":
        if self.lost_after_s < self.late_after_s:
            raise ValueError("SCALEODM_ROUTER_LOST_AFTER_S is less than SCALEODM_ROUTER_LATE_AFTER_S; expected more")
        return self

    @property
    def heartbeat_s(self) -> float:
        """How often a node shall report: three heartbeats may be missed before it is late (design 6)."""
        return self.late_after_s / LATE_BEATS

    @property
    def clocks(self) -> Clocks:
        """How long a node's silence is borne."""
        seconds = (self.late_after_s, self.lost_after_s, self.rest_s, self.quarantine_s, self.part_waits_s)
        return Clocks(*(timedelta(seconds=each) for each in seconds))

    @property
    def ages(self) -> Ages:
        """How long what is over stays."""
        return Ages(
            tasks=_age(minutes=self.cleanup_tasks_min),
            uploads=_age(minutes=self.cleanup_uploads_min),
            orphans=_age(minutes=self.cleanup_orphans_min),
            history=_age(days=self.history_days),
            webhooks=_age(days=self.webhooks_days),
            events=_age(days=self.events_days),
            samples=_age(days=self.samples_days),
            runtime=_age(minutes=self.max_runtime_min),
        )

    @model_validator(mode="after")
    def _check_access(self) -> "RouterSettings":
        if self.auth is Switch.ON and self.admin_token is None:
            raise ValueError(
                "nobody could use this router: set SCALEODM_ROUTER_ADMIN_TOKEN, or switch authentication off on "
                "purpose with SCALEODM_ROUTER_AUTH=off"
            )
        return self


def _age(**length: float) -> timedelta | None:
    """So long; None where it is nothing, which means never."""
    return timedelta(**length) or None
