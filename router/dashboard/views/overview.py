"""How full the federation is and was, and how its tasks go."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup
from starlette.requests import Request

from router.dashboard import plots
from router.dashboard.pages import Pages
from router.dashboard.plots import Plot, Series
from router.dashboard.screens import Screen
from router.dashboard.views.view import asked
from router.dashboard.words import counted, lasting
from router.overview import Overviews, Span

_SPANS = {Span.HOUR: "1 hour", Span.DAY: "1 day", Span.WEEK: "7 days", Span.MONTH: "30 days"}


class OverviewView:
    """`/dashboard`."""

    template = "overview.html"
    section = "overview"

    def __init__(self, pages: Pages, overviews: Overviews) -> None:
        """`overviews` has the figures."""
        self._macros = pages.macros("overview.parts.html")
        self._overviews = overviews

    async def screen(self, request: Request) -> Screen:
        """Figures of now, and five plots."""
        found = await self._overviews.span(_span(request))
        parts = {"figures": self._macros.figures(found["now"])}
        for name, (title, drawn, key) in _drawn(found).items():
            parts[name] = self._macros.plot(name, title, drawn, key)
        return Screen(parts)

    def frame(self, request: Request) -> Mapping[str, Any]:
        """The choice of the time that is shown."""
        return {
            "title": "Overview",
            "span": _span(request).value,
            "spans": {key.value: name for key, name in _SPANS.items()},
        }


def _span(request: Request) -> Span:
    return next((span for span in Span if span == asked(request, "span")), Span.DAY)


def _drawn(found: Mapping[str, Any]) -> dict[str, tuple[str, Markup | None, dict[str, str]]]:
    """By id of each plot its title, the plot where there is something to draw, and what its colours mean."""
    return {
        "slots": ("Slots", _over_time(found, "slots", _slots), {"slots": "there", "used": "used"}),
        "queue": ("Queue depth", _over_time(found, "queue", _queue), {"queued": "waiting", "running": "running"}),
        "waits": (
            f"Waits before a start, in {_unit(found['waits'])[0]}",
            _over_time(found, "waits", _waits),
            {"median": "median", "ninetieth": "90th percentile"},
        ),
        "ended": (
            f"Tasks that ended, per {_PER.get(found['barS'], lasting(found['barS']))}",
            _ended(found),
            _ENDED_KEY,
        ),
        "failures": ("Failed attempts, by cause", _failures(found["failures"]), {}),
    }


_PER = {3600: "hour", 86_400: "day"}
_ENDED_KEY = {"completed": "completed", "failed": "failed", "canceled": "canceled"}


def _over_time(found: Mapping[str, Any], name: str, plotted: Callable[..., Plot]) -> Markup | None:
    return plots.lines(plotted(found, found[name])) if found[name] else None


def _plot(
    found: Mapping[str, Any],
    points: list[dict[str, Any]],
    label: str,
    series: list[Series],
    gap: timedelta = timedelta.max,
) -> Plot:
    at: list[datetime] = [point["at"] for point in points]
    return Plot(label, found["since"], max(found["until"], *at), at, series, gap)


def _slots(found: Mapping[str, Any], points: list[dict[str, Any]]) -> Plot:
    last = points[-1]
    label = f"Slots over time: {last['used']:g} of {last['slots']:g} used at last."
    there = Series("slots", "slots", [point["slots"] for point in points], is_area=True)
    used = Series("used", "used", [point["used"] for point in points], is_area=True)
    return _plot(found, points, label, [there, used], gap=_gap(found))


def _queue(found: Mapping[str, Any], points: list[dict[str, Any]]) -> Plot:
    last = points[-1]
    label = f"Queue over time: {last['queued']:g} waiting, {last['running']:g} running at last."
    queued = Series("waiting", "queued", [point["queued"] for point in points])
    running = Series("running", "running", [point["running"] for point in points])
    return _plot(found, points, label, [queued, running], gap=_gap(found))


def _gap(found: Mapping[str, Any]) -> timedelta:
    return timedelta(seconds=2.5 * found["stepS"])


def _waits(found: Mapping[str, Any], points: list[dict[str, Any]]) -> Plot:
    divisor = _unit(points)[1]
    label = f"Waits before a start: median {lasting(points[-1]['medianS'])} at last."
    median = Series("median", "median", [point["medianS"] / divisor for point in points])
    ninetieth = Series("90th percentile", "ninetieth", [point["p90S"] / divisor for point in points])
    return _plot(found, points, label, [median, ninetieth])


def _unit(points: list[dict[str, Any]]) -> tuple[str, float]:
    """The unit in which waits read well, and its seconds."""
    most = max((point["p90S"] for point in points), default=0.0)
    units = (("hours", 3600.0), ("minutes", 60.0))
    return next(((unit, size) for unit, size in units if most > 2 * size), ("seconds", 1.0))


def _ended(found: Mapping[str, Any]) -> Markup | None:
    points = found["ended"]
    if not any(point[kind] for point in points for kind in _ENDED_KEY):
        return None
    sums = ", ".join(f"{sum(point[kind] for point in points):,} {kind}" for kind in _ENDED_KEY)
    series = [Series(kind, kind, [point[kind] for point in points]) for kind in _ENDED_KEY]
    until = found["since"] + timedelta(seconds=found["barS"]) * len(points)
    return plots.bars(
        Plot(f"Tasks that ended: {sums}.", found["since"], until, [point["at"] for point in points], series)
    )


def _failures(causes: Mapping[str, int]) -> Markup | None:
    told = ", ".join(f"{counted(count, 'time')} {cause}" for cause, count in causes.items())
    return plots.shares(f"Failed attempts by cause: {told}.", causes) if causes else None
