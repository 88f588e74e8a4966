"""The study drawn: `docs/policy-study.svg`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tests.study.report import hours
from tests.study.scenarios import BLIND, FEW_NODES, OURS, Results, Scale, spreads

OWN, OTHER, PALE, FAINT, INK = "#0a7d5a", "#5b6b82", "#b9c2cf", "#d9dee6", "#1d2733"
NAMES = list(reversed(FEW_NODES))
"""Ours on top."""
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "policy study",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": OTHER,
    "ytick.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def draw(scale: Scale, results: Results, to: Path, seeds: int) -> None:
    """The same figures give the same bytes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 7.4), facecolor="white")
        axes = figure.subplots(2, 3, sharey=True)
        few, many = f"{scale.few} nodes", f"{scale.many:,} nodes"
        _waits(axes[0, 0], results, "few-smooth", f"{few}, smooth arrivals")
        _waits(axes[0, 1], results, "few-bursts", f"{few}, bursts of 20")
        _waits(axes[0, 2], results, "many-large-bursts", f"{many}, bursts of {2 * scale.many:,}")
        _bars(axes[1, 0], results, "many-dying", f"{many}, {scale.many // 10} of them die")
        _waits(axes[1, 1], results, "flooded", f"{few}, another tenant floods")
        _dots(axes[1, 2], results, "pile", f"{few}, {scale.pile} tasks at once")
        for left in axes[:, 0]:
            left.set_yticks(range(len(NAMES)), NAMES)
            left.set_ylim(len(NAMES) - 0.4, -0.6)
            for label, name in zip(left.get_yticklabels(), NAMES, strict=True):
                label.set_color(OWN if name in (OURS, BLIND) else INK)
                label.set_fontweight("bold" if name == OURS else "normal")
        figure.text(0.012, 0.965, "Who waits, for how long, and who is left behind", fontsize=14, fontweight="bold")
        figure.legend(
            handles=[
                Line2D(
                    [],
                    [],
                    marker="o",
                    color=OTHER,
                    linewidth=2,
                    label=f"mean, and as a figure; bar: range over {seeds} seeds",
                ),
                Line2D([], [], marker="|", color=OTHER, markersize=9, linestyle="none", label="95th percentile"),
            ],
            loc="upper right",
            bbox_to_anchor=(0.995, 1.0),
            ncols=2,
            frameon=False,
        )
        figure.subplots_adjust(left=0.165, right=0.98, top=0.885, bottom=0.075, wspace=0.1, hspace=0.36)
        figure.savefig(to, metadata={"Date": None, "Creator": None} if to.suffix == ".svg" else {})


def _waits(axes: Axes, results: Results, key: str, title: str) -> None:
    """Mean and 95th percentile of the waits, in hours, on a scale of powers."""
    _frame(
        axes, results, key, title, "hours that a task waits" if key != "flooded" else "hours that the small one waits"
    )
    found = {name: spreads(runs) for name, runs in results[key].items()}
    shown = [each[figure].mean for each in found.values() for figure in ("mean", "p95")]
    least = min((value for value in shown if value > 0.005), default=0.01) / 1.6
    most = max([*shown, 2 * least])
    axes.set_xscale("log")
    axes.set_xlim(least, most * 5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for place, name in _places(results, key):
        mean, p95, color = found[name]["mean"], found[name]["p95"], _color(name)
        axes.plot([max(mean.low, least), max(mean.high, least)], [place, place], color=color, linewidth=2)
        axes.plot(max(mean.mean, least), place, "o", color=color, markersize=6.5, clip_on=False)
        if p95.mean > least:
            axes.plot(p95.mean, place, "|", color=color, markersize=11, markeredgewidth=1.8)
        _label(axes, place, hours(mean.mean), name)


def _bars(axes: Axes, results: Results, key: str, title: str) -> None:
    """Tasks that never finish: those that waited behind dead nodes, and those that ran there."""
    _frame(axes, results, key, title, "tasks that never finish (dark: stranded in a queue)")
    found = {name: spreads(runs) for name, runs in results[key].items()}
    axes.set_xlim(0, max([1.0, *(each["unfinished"].mean for each in found.values())]) * 1.15)
    for place, name in _places(results, key):
        whole, stranded = found[name]["unfinished"].mean, found[name]["stranded"].mean
        axes.barh(place, whole, 0.5, color=PALE, linewidth=0)
        axes.barh(place, stranded, 0.5, color=_color(name), linewidth=0)
        _label(axes, place, f"{whole:.0f}", name)


def _dots(axes: Axes, results: Results, key: str, title: str) -> None:
    """When the last task of a pile is done."""
    _frame(axes, results, key, title, "hours until the last one is done")
    found = {name: spreads(runs)["makespan"] for name, runs in results[key].items()}
    axes.set_xlim(0, max(each.high for each in found.values()) * 1.18)
    for place, name in _places(results, key):
        each, color = found[name], _color(name)
        axes.plot([each.low, each.high], [place, place], color=color, linewidth=2)
        axes.plot(each.mean, place, "o", color=color, markersize=6.5)
        _label(axes, place, hours(each.mean), name)


def _frame(axes: Axes, results: Results, key: str, title: str, what: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(what, fontsize=8.5)
    axes.tick_params(length=0)
    axes.tick_params(which="minor", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for place, name in enumerate(NAMES):
        if name not in results[key]:
            axes.text(0.015, place, "not studied here", transform=axes.get_yaxis_transform(), **_small(OTHER))


def _places(results: Results, key: str) -> Sequence[tuple[int, str]]:
    return [(place, name) for place, name in enumerate(NAMES) if name in results[key]]


def _label(axes: Axes, place: int, text: str, name: str) -> None:
    """In a column at the right."""
    weight = "bold" if name == OURS else "normal"
    beside = axes.get_yaxis_transform()
    axes.text(1.0, place, text, transform=beside, fontweight=weight, **_small(_color(name), "right"))


def _small(color: str, side: str = "left") -> dict[str, Any]:
    return {"va": "center", "ha": side, "fontsize": 8, "color": color}


def _color(name: str) -> str:
    return OWN if name in (OURS, BLIND) else OTHER
