"""The Grafana dashboard and the alert rules: what they name is there, and they can be read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.metrics import FIGURES, Figure
from node.metrics import FIGURES as OF_NODE
from router.metrics import FIGURES as OF_ROUTER

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
BOARD = ROOT / "deploy" / "grafana" / "scaleodm.json"
DECLARED = {figure.name: figure for figure in (*FIGURES, *OF_ROUTER, *OF_NODE)}
OF_PROCESS = {"process_resident_memory_bytes": "gauge", "process_cpu_seconds_total": "counter"}
SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""
FUNCTIONS = {"sum", "max", "min", "rate", "increase", "histogram_quantile", "topk", "absent", "label_values"}
WORDS = {"by", "and", "or", "ignoring", "unless"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTED = re.compile(r"(?P<name>[a-z_]\w*)\{(?P<matchers>[^}]*)\}")
_GROUPED = re.compile(r"\b(?:by|ignoring)\s*\(([^)]*)\)")
_OF_COUNTERS = re.compile(r"\b(?:rate|increase)\(\s*([a-z_]\w*)")
_LABEL = re.compile(r"([a-z_]\w*)\s*(?:=~|!~|!=|=)")


def alerts() -> list[dict[str, Any]]:
    """Every rule."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(BOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Its panels, rows apart."""
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every expression of both."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [*(rule["expr"] for rule in alerts()), *shown]


def kind_of(name: str) -> str:
    """What is scraped under a name: the kind of its figure; empty for what is not there."""
    for suffix in ("_bucket", "_sum", "_count"):
        figure = DECLARED.get(name.removesuffix(suffix))
        if name.endswith(suffix) and figure is not None and figure.is_histogram:
            return "counter"
    if name in OF_PROCESS:
        return OF_PROCESS[name]
    return DECLARED[name].kind if name in DECLARED else ""


def labels_of(name: str) -> set[str]:
    """The labels of what is scraped under a name."""
    figure: Figure | None = DECLARED.get(re.sub(r"_(bucket|sum|count)$", "", name)) or DECLARED.get(name)
    return {*(figure.labels if figure is not None else ()), *SCRAPED, *({"le"} if name.endswith("_bucket") else ())}


def faults(expression: str) -> list[str]:
    """What is wrong with an expression, as far as can be seen without Prometheus."""
    found = [
        f"{one} is not closed" for one, other in ("()", "{}", "[]") if expression.count(one) != expression.count(other)
    ]
    if expression.count('"') % 2:
        found.append("a string is not closed")
    for selected in _SELECTED.finditer(expression):
        asked = set(_LABEL.findall(_STRING.sub('""', selected["matchers"])))
        found += [f"{selected['name']} has no label {each}" for each in sorted(asked - labels_of(selected["name"]))]
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", _STRING.sub("", expression))
    names = {each for each in re.findall(r"[a-z_]\w*", _GROUPED.sub("", plain)) if not re.fullmatch(r"e\d+", each)}
    metrics = names - FUNCTIONS - WORDS
    found += [f"there is no {each}" for each in sorted(metrics) if not kind_of(each)]
    known = {label for each in metrics for label in labels_of(each)}
    for group in _GROUPED.findall(plain):
        asked = {each.strip() for each in group.split(",")}
        found += [f"nothing here has the label {each}" for each in sorted(asked - known)]
    stripped = _STRING.sub("", expression)
    found += [
        f"{each} is no counter" for each in _OF_COUNTERS.findall(stripped) if kind_of(each) not in ("counter", "")
    ]
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_names_what_is_there(expression: str) -> None:
    """Figures that `test_metrics` has seen running programs tell, their labels, and rates of counters alone."""
    assert faults(expression) == []


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("sum(scaleodm_router_task)", "there is no scaleodm_router_task"),
        ('max(scaleodm_router_tasks{stat="queued"})', "scaleodm_router_tasks has no label stat"),
        ("max by (node) (scaleodm_router_tasks)", "nothing here has the label node"),
        ("rate(scaleodm_router_tasks[5m])", "scaleodm_router_tasks is no counter"),
        ("sum(rate(scaleodm_router_placements_total[5m])", "( is not closed"),
        ("rate(scaleodm_router_placements[5m])", "there is no scaleodm_router_placements"),
    ],
)
def test_what_is_wrong_with_an_expression_is_found(expression: str, told: str) -> None:
    """The looking itself."""
    assert told in faults(expression)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_is_so_and_what_to_do(rule: dict[str, Any]) -> None:
    """In sentences; and how bad it is."""
    assert re.fullmatch(r"Scaleodm[A-Za-z0-9]+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    for text in rule["annotations"].values():
        assert text.rstrip().endswith(".")
        named = set(re.findall(r"\$labels\.(\w+)", text))
        grouped = {each.strip() for group in _GROUPED.findall(rule["expr"]) for each in group.split(",")}
        assert named <= (grouped or SCRAPED), "a label that is summed away would be empty"


def test_alerts_have_names_of_their_own_and_cover_what_can_go_wrong() -> None:
    """Each thing that an operator must be woken for."""
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    assert {
        "ScaleodmNoRouter",
        "ScaleodmNoLeader",
        "ScaleodmDatabaseAway",
        "ScaleodmNodeLost",
        "ScaleodmQueueWaitsTooLong",
        "ScaleodmNoFreeSlots",
        "ScaleodmTasksFail",
        "ScaleodmS3Failing",
        "ScaleodmWebhooksFail",
    } <= set(names)


def test_the_dashboard_can_be_loaded_and_explains_itself() -> None:
    """Panels do not overlap, each has a title and says what it shows; no address of any server is in it."""
    found = board()
    assert (found["title"], found["uid"]) == ("ScaleODM", "scaleodm")
    assert "://" not in BOARD.read_text()
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"


def test_every_figure_of_the_router_is_on_the_dashboard_or_behind_an_alert() -> None:
    """What nobody looks at need not be told; but for what is there to be searched for."""
    shown = " ".join(expressions())
    unseen = {name for name in (figure.name for figure in OF_ROUTER) if name not in shown}
    assert unseen == {"scaleodm_router_joins_total"}
