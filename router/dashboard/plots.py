"""Plots as SVG, without a script: areas, lines and bars over time, bars by name. Pure.

Colours are the style sheet's, by class; texts of moments carry `data-at`, which the page's script shows in local time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

_WIDTH, _HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_TICKS = 4
_BAR_ROW = 26
_MOST_TIMES = 6
_STEPS = (60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 2 * 86_400, 7 * 86_400)
"""Seconds between moments that are named."""


@dataclass(frozen=True, slots=True)
class Series:
    """One value over time; None is a gap."""

    name: str
    style: str
    """Class in the style sheet."""
    values: Sequence[float | None]
    is_area: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn over which time."""

    label: str
    """What a person hears who does not see it."""
    since: datetime
    until: datetime
    at: Sequence[datetime]
    series: Sequence[Series]
    gap: timedelta = timedelta.max
    """Points further apart are not joined."""

    def top(self, stacked: bool = False) -> float:
        """The highest value of the scale."""
        if stacked:
            most = max(
                (sum(_known(each)) for each in zip(*(series.values for series in self.series), strict=True)),
                default=0.0,
            )
        else:
            most = max((value for series in self.series for value in _known(series.values)), default=0.0)
        return round_up(most)


def round_up(most: float) -> float:
    """The next value that four ticks divide well."""
    if most <= _TICKS:
        return float(_TICKS)
    step = 10 ** math.floor(math.log10(most / _TICKS))
    return next(float(step * factor * _TICKS) for factor in (1, 2, 2.5, 5, 10) if step * factor * _TICKS >= most)


def lines(plot: Plot) -> Markup:
    """Each series as a line, or as the area below it."""
    top = plot.top()
    drawn: list[Markup] = []
    for series in plot.series:
        for run in _runs(plot, series):
            points = [(_x(plot, at), _y(value, top)) for at, value in run]
            drawn.append(_area(points, series) if series.is_area else _line(points, series))
    return _framed(plot, top, [*drawn, *_readings(plot)])


def bars(plot: Plot) -> Markup:
    """The series of each moment on top of each other; a bar spans the time to the next."""
    top = plot.top(stacked=True)
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(plot.at))
    drawn: list[Markup] = []
    for number, values in enumerate(zip(*(series.values for series in plot.series), strict=True)):
        below = 0.0
        for series, value in zip(plot.series, values, strict=True):
            if not value:
                continue
            y, foot = _y(below + value, top), _y(below, top)
            below += value
            drawn.append(
                Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"></rect>').format(
                    series.style, _LEFT + number * width + width * 0.1, y, width * 0.8, foot - y
                )
            )
    return _framed(plot, top, [*drawn, *_readings(plot, of_bars=True)])


def shares(label: str, counts: Mapping[str, int]) -> Markup:
    """A bar for each name, the longest first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    most = max(counts.values(), default=1)
    rows = [
        Markup(
            '<text x="150" y="{y}" text-anchor="end">{name}</text>'
            '<rect class="failed" x="158" y="{top}" width="{width:.1f}" height="14"></rect>'
            '<text x="{end:.1f}" y="{y}">{count}</text>'
        ).format(
            y=_BAR_ROW * number + 18,
            top=_BAR_ROW * number + 6,
            name=name,
            width=(_WIDTH - 220) * count / most,
            end=166 + (_WIDTH - 220) * count / most,
            count=f"{count:,}",
        )
        for number, (name, count) in enumerate(ordered)
    ]
    return _svg(label, _BAR_ROW * max(1, len(ordered)) + 6, rows)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _x(plot: Plot, at: datetime) -> float:
    share = (at - plot.since) / (plot.until - plot.since)
    return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)


def _runs(plot: Plot, series: Series) -> Iterator[list[tuple[datetime, float]]]:
    """The stretches of a series in which nothing is missing."""
    run: list[tuple[datetime, float]] = []
    for at, value in zip(plot.at, series.values, strict=True):
        if run and (value is None or at - run[-1][0] > plot.gap):
            yield run
            run = []
        if value is not None:
            run.append((at, value))
    if run:
        yield run


def _line(points: Sequence[tuple[float, float]], series: Series) -> Markup:
    if len(points) == 1:
        (x, y), *_ = points
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.5"></circle>').format(series.style, x, y)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"></polyline>').format(series.style, path)


def _area(points: Sequence[tuple[float, float]], series: Series) -> Markup:
    foot = _HEIGHT - _BOTTOM
    # One point alone would be an area without a width.
    points = points if len(points) > 1 else [points[0], (points[0][0] + 2, points[0][1])]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polygon class="{} area" points="{:.1f},{} {} {:.1f},{}"></polygon>').format(
        series.style, points[0][0], foot, path, points[-1][0], foot
    )


def _readings(plot: Plot, of_bars: bool = False) -> Iterator[Markup]:
    """Columns that nobody sees, and that say what stands there when pointed at."""
    if not plot.at:
        return
    width = (_WIDTH - _LEFT - _RIGHT) / len(plot.at)
    for number, at in enumerate(plot.at):
        x = _LEFT + number * width if of_bars else _x(plot, at) - width / 2
        told = ", ".join(
            f"{series.name} {series.values[number]:,.4g}" for series in plot.series if series.values[number] is not None
        )
        yield Markup(
            '<rect class="reading" x="{:.1f}" y="{}" width="{:.1f}" height="{}">'
            "<title>{:%Y-%m-%d %H:%M} UTC: {}</title></rect>"
        ).format(x, _TOP, width, _HEIGHT - _TOP - _BOTTOM, at, told)


def _framed(plot: Plot, top: float, drawn: Sequence[Markup]) -> Markup:
    return _svg(plot.label, _HEIGHT, [*_scale(top), *drawn, *_times(plot)])


def _scale(top: float) -> Iterator[Markup]:
    for tick in range(_TICKS + 1):
        value = top * tick / _TICKS
        y = _y(value, top)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"></line>').format(
            _LEFT, _WIDTH - _RIGHT, y, y
        )
        yield Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(_LEFT - 6, y + 4, _figure(value))


def _figure(value: float) -> str:
    for limit, sign in ((1_000_000, "M"), (1_000, "k")):
        if value >= 10 * limit or (value >= limit and value % limit == 0):
            return f"{value / limit:g}{sign}"
    return f"{value:g}"


def ticks(since: datetime, until: datetime) -> list[datetime]:
    """Moments for the scale of time: round ones, of UTC, and not too many."""
    span = (until - since).total_seconds()
    step = next((step for step in _STEPS if span / step <= _MOST_TIMES), _STEPS[-1])
    first = math.ceil(since.timestamp() / step) * step
    return [datetime.fromtimestamp(at, UTC) for at in range(first, int(until.timestamp()) + 1, step)]


def _times(plot: Plot) -> Iterator[Markup]:
    is_short = plot.until - plot.since <= timedelta(days=1.5)
    form, kind = ("%H:%M", "clock") if is_short else ("%d %b", "day")
    for at in ticks(plot.since, plot.until):
        # What stands at an edge would be cut off.
        x = min(max(_x(plot, at), _LEFT + 4.0), _WIDTH - 26.0)
        yield Markup('<text x="{:.1f}" y="{}" text-anchor="middle" data-{}="{}">{}</text>').format(
            x, _HEIGHT - 6, kind, at.isoformat(), at.strftime(form)
        )


def _svg(label: str, height: int, content: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, label, Markup("").join(content)
    )
