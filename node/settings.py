"""The node's settings, from the environment (docs/settings.md lists them)."""

import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.settings import Readers, Switch
from common.tailnet import goes_over_tailnet
from common.webhooks import is_web_address
from node.sizing import Rules

DAY_S = 86_400


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
    """Folder for tasks and workspaces; in a cluster for consoles alone."""
    slots: int = Field(default=1, ge=1, le=1000)
    """Tasks that run at once."""
    max_images: int | None = Field(default=None, ge=1)
    """Images that one task may have; unset means no limit."""
    backend: Literal["local", "kubernetes"] = "local"
    """Where runs happen: as processes of this machine, or as Jobs of a cluster."""
    engine: Literal["orthomosaic", "odm"] | None = None
    """Which engine runs them; unset means `orthomosaic` on this machine, and `odm` in a cluster."""
    engine_command: str | None = None
    """What runs ODM, such as `/code/run.sh`; in a cluster unset means the entry point of the engine's image."""
    user_token: SecretStr | None = None
    """Token for clients that use this node directly."""
    auth: Switch = Switch.ON
    """`off` lets everybody in."""
    router_url: str | None = None
    """The router to join, or several replicas of it with commas between; unset means a node on its own."""
    join_token: SecretStr | None = None
    """The router's node token; needed to join one, but over a tailnet."""
    router_proxy: AnyHttpUrl | None = None
    """HTTP proxy by which this node calls the router: tailscaled's own (`TS_OUTBOUND_HTTP_PROXY_LISTEN`) where it runs
    in userspace mode, such as `http://localhost:1055` (docs/joining.md)."""
    tailnet: Literal["auto", "on", "off"] = "auto"
    """`on`: this node tells the router its tailnet name and addresses, and needs no join token where the router knows
    it by the tailnet; `off`: it does not; `auto`: it does where the router's own address is a tailnet's."""
    labels: dict[str, str] = Field(default_factory=dict)
    """JSON object of labels that placement may use."""
    webhook: SecretStr | None = None
    """URL that is called when a task ends that came to this node directly, beside the task's own (docs/webhooks.md)."""
    webhook_secret: SecretStr | None = None
    """Signs the calls of webhooks; unset means they are not signed."""
    webhook_private: Switch = Switch.OFF
    """`on` lets webhooks call addresses of private networks."""

    metrics: Readers = Readers.TOKEN
    """Who may read `/metrics`: `token`, whoever sends the token for that or the user token; `open`, everybody; `off`,
    nobody (docs/monitoring.md)."""
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    """Token that opens `/metrics` and nothing else; at least 16 characters."""

    max_runtime_min: float = Field(default=0, ge=0)
    """Minutes that an engine may work before its run is canceled; 0 means no limit."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Most cores that a run may use: caps the option `max-concurrency`, and sets it where the client did not."""
    cleanup_tasks_min: float | None = Field(default=None, ge=0)
    """Minutes for which a direct task is remembered after its end; 0 means for ever. Unset means two days, in a cluster
    `SCALEODM_JOB_KEEP_S`."""
    cleanup_uploads_min: float = Field(default=2880, ge=0)
    """Minutes after its last file when an upload to this node goes that was never committed; 0 means never."""
    keep_workspace_h: float = Field(default=48, ge=0)
    """Hours for which the workspace of an ended run is kept for a restart with `rerun-from`; 0 means not at all."""
    keep_workspace_gib: float = Field(default=100, ge=0)
    """GiB that kept workspaces may take, and never more than half of what the disk would have free without them."""

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_web_address(value.get_secret_value()):
            raise ValueError("expected http://host/path or https://host/path")
        return value

    @property
    def keep_uploads_for_s(self) -> float | None:
        """Seconds that an upload waits to be committed; None means for ever."""
        return self.cleanup_uploads_min * 60 or None

    def keep_tasks_for_s(self, at_most_s: float | None) -> float | None:
        """Seconds that a direct task is remembered; None means for ever. `at_most_s`: how long it can be, if not so."""
        if self.cleanup_tasks_min is None:
            return at_most_s or 2 * DAY_S
        asked = self.cleanup_tasks_min * 60
        return min((each for each in (asked, at_most_s) if each), default=None)

    @property
    def router_urls(self) -> tuple[str, ...]:
        """The replicas of the router, as they are tried."""
        return tuple(each.strip().rstrip("/") for each in (self.router_url or "").split(",") if each.strip())

    @property
    def uses_tailnet(self) -> bool:
        """Whether this node joins over a tailnet."""
        return goes_over_tailnet(self.tailnet, self.router_urls)

    @model_validator(mode="after")
    def _check_routers(self) -> "NodeSettings":
        for each in self.router_urls:
            if urlsplit(each).scheme not in ("http", "https") or not urlsplit(each).hostname:
                raise ValueError(
                    f"SCALEODM_NODE_ROUTER_URL names {each!r}; expected http://host:port, or several with commas"
                )
        return self

    @model_validator(mode="after")
    def _check_access(self) -> "NodeSettings":
        if self.auth is Switch.ON and self.user_token is None and self.router_url is None:
            raise ValueError(
                "nobody could use this node: set SCALEODM_NODE_USER_TOKEN, or SCALEODM_NODE_ROUTER_URL to join a "
                "router, or switch authentication off on purpose with SCALEODM_NODE_AUTH=off"
            )
        if self.router_url is not None and self.join_token is None and not self.uses_tailnet:
            raise ValueError(
                "SCALEODM_NODE_ROUTER_URL is set, so SCALEODM_NODE_JOIN_TOKEN (the router's node token) is needed, or "
                "SCALEODM_NODE_TAILNET=on where the router knows this machine by the tailnet"
            )
        return self


class JobSettings(BaseSettings):
    """`SCALEODM_JOB_…`: how a node with the backend `kubernetes` makes its Jobs."""

    model_config = SettingsConfigDict(env_prefix="SCALEODM_JOB_", frozen=True, extra="ignore")

    kubeconfig: Path | None = None
    """Kubeconfig file; unset means the pod's own service account."""
    context: str | None = None
    """Context of the kubeconfig."""
    namespace: str | None = Field(default=None, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Namespace of the Jobs; unset means the one the node itself is in."""
    stages_image: str
    """Image with this package, for the containers `fetch` and `publish`."""
    engine_image: str = "opendronemap/odm:3.6.0"
    """Image of the engine."""
    engine_images: list[str] = Field(default_factory=list)
    """Other images that a task may ask for as `odmImage`, with `*` for anything."""
    engine_writable: list[str] = Field(default_factory=lambda: ["/code/storage"])
    """Folders that the engine's image must be able to write, beside its workspace and `/tmp`."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""
    image_pull_secrets: list[str] = Field(default_factory=list)
    """Names of Secrets with registry credentials."""
    pull_patience_s: float = Field(default=600, ge=0)
    """Seconds after which a pod that cannot start for want of an image or a Secret fails its task."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the machines that Jobs may use."""
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Tolerations, as Kubernetes writes them."""
    priority_class: str | None = None
    """PriorityClass of the pods."""
    capacity_label: str | None = None
    """Label that tells spot machines from on-demand ones, such as `karpenter.sh/capacity-type`."""
    capacity_type: Literal["spot", "on-demand"] | None = None
    """Which of them a task gets that asks for none."""
    on_demand_above: int = Field(default=5000, ge=0)
    """Images from which on a task gets on-demand machines, whatever it asks for; 0 switches this off."""
    service_account: str | None = None
    """Service account of the pods, for clouds that give S3 rights by it; no token is ever mounted."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of each run, unless a task says `no-gpu`."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU."""
    kueue_queue: str | None = None
    """Kueue's local queue: it then decides when a Job starts, not this node's slots."""
    backoff_limit: int = Field(default=3, ge=0, le=100)
    """Pods that may be lost to anything but the engine before a run is given up."""
    deadline_s: int = Field(default=7 * DAY_S, ge=1)
    """Seconds that a run may take."""
    keep_s: int = Field(default=7 * DAY_S, ge=60)
    """Seconds that an ended task is remembered."""
    storage_class: str | None = None
    """StorageClass of the workspace; unset means an emptyDir on the machine's own disk."""
    s3_secret: str | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` for the pods."""
    s3_endpoint: str | None = None
    """Where pods reach S3; unset means where this node does."""
    node_url: AnyHttpUrl | None = None
    """How pods reach this node, for short-lived credentials; unset means the node's own URL."""
    secret_key: SecretStr | None = Field(default=None, min_length=32)
    """At least 32 characters, the same for every replica: pods' tokens for short-lived credentials derive from it."""
    user: int = Field(default=10001, ge=1)
    """User and group number that the pods run as."""
    lease_s: float = Field(default=15.0, ge=1)
    """Seconds after which another replica takes over from one that is silent."""
    spool_mib: int = Field(default=256, ge=1)
    """Most MiB of one run's console kept on this node's disk."""
    discover_options: Switch = Switch.ON
    """Ask the engine's image for its options with a small Job at start."""

    memory_factor: float = Field(default=1.0, gt=0)
    """Memory of every run, as a share of the built-in table."""
    fast_orthophoto_factor: float = Field(default=0.5, gt=0)
    """Memory with `fast-orthophoto`, likewise."""
    dem_factor: float = Field(default=1.1, gt=0)
    """Memory with `dsm` or `dtm`, likewise."""
    swap_ratio: float = Field(default=0.0, ge=0)
    """Swap per memory of the machines: the request is the peak divided by one more."""
    margin_percent: float = Field(default=20.0, ge=0)
    """How far the memory limit lies above the peak (with swap: above the request)."""
    memory_min_gib: float = Field(default=4.0, gt=0)
    """Least memory request."""
    cpu_per_gib: float = Field(default=0.125, gt=0)
    """Cores requested per GiB of memory requested."""
    cpu_limit_factor: float = Field(default=0.0, ge=0)
    """CPU limit as a multiple of the request; 0 means none."""
    disk_factor: float = Field(default=12.0, gt=0)
    """Scratch disk as a multiple of the input's bytes."""
    disk_min_gib: float = Field(default=10.0, gt=0)
    """Least scratch disk."""
    largest_memory_gib: float | None = Field(default=None, gt=0)
    """Memory of the cluster's largest machine: what needs more is refused."""
    largest_cpu: float | None = Field(default=None, gt=0)
    """Cores of the largest machine: no run requests more."""
    largest_disk_gib: float | None = Field(default=None, gt=0)
    """Scratch disk of the largest machine."""

    @field_validator("engine_writable")
    @classmethod
    def _check_paths(cls, paths: list[str]) -> list[str]:
        if any(not path.startswith("/") or ".." in path for path in paths):
            raise ValueError(f"expected absolute paths such as /code/storage, got {paths}")
        return paths

    @property
    def rules(self) -> Rules:
        """The part that `node.sizing` reads."""
        return Rules(**{name: getattr(self, name) for name in Rules.__dataclass_fields__})
