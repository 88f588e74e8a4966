"""The alerts of deploy/prometheus for the Prometheus operator: `python -m tests.deploy.rules` writes them anew.

The operator wants them in an object of its own kind, and Kustomize cannot put a file into one.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.deploy.manifests import KUBERNETES, PROJECT

ALERTS = PROJECT / "deploy/prometheus/alerts.yaml"
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "monitoring": ("scaleodm-router",),
    "monitoring-node": ("scaleodm-s3", "scaleodm-node"),
}
"""Which groups of alerts each component brings: where there is no router, nobody is to be told that it is away."""


def place(component: str) -> Path:
    """Where its rules are kept."""
    return KUBERNETES / "components" / component / "rules.yaml"


def written(component: str) -> str:
    """The groups of a component as they stand in the alerts, within an object."""
    _, *groups = ALERTS.read_text().split("\n  - name: ")
    chosen = [each for each in groups if each.partition("\n")[0] in COMPONENTS[component]]
    name = "scaleodm-node" if component == "monitoring-node" else "scaleodm-router"
    head = (
        "# Written by `python -m tests.deploy.rules` from deploy/prometheus/alerts.yaml.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
        f"metadata:\n  name: {name}\nspec:\n  groups:\n"
    )
    lines = "\n".join(f"  - name: {each.rstrip()}" for each in chosen).split("\n")
    return head + "\n".join(f"  {line}" if line else "" for line in lines) + "\n"


def main() -> None:
    """Write them all."""
    for component in COMPONENTS:
        place(component).write_text(written(component))


if __name__ == "__main__":
    main()
