"""The tables of docs/monitoring.md, from the figures and the alert rules themselves."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from common.metrics import FIGURES, Figure
from node.metrics import FIGURES as OF_NODE
from router.metrics import FIGURES as OF_ROUTER

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"


def figures() -> str:
    """Every figure."""
    parts = (("Router", OF_ROUTER), ("Node", OF_NODE), ("Both", FIGURES))
    return "\n".join(f"### {title}\n\n{_table(some)}" for title, some in parts)


def _table(some: Iterable[Figure]) -> str:
    rows = ["| figure | kind | labels | meaning |", "|---|---|---|---|"]
    rows += [f"| `{each.name}` | {each.kind} | {_labels(each)} | {each.help} |" for each in some]
    return "\n".join(rows) + "\n"


def _labels(figure: Figure) -> str:
    return ", ".join(f"`{each}`" for each in figure.labels)


def alerts() -> str:
    """Every alert, and what to do."""
    rows = ["| alert | severity | when | what to do |", "|---|---|---|---|"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            told = rule["annotations"]
            rows.append(f"| {rule['alert']} | {rule['labels']['severity']} | {told['summary']} | {told['runbook']} |")
    return "\n".join(rows).replace("{{ $labels.", "(").replace(" }}", ")") + "\n"
