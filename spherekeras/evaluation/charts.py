"""Charts of verification as inline SVG: ROC, DET and histogram, drawn from pairs alone.

A curve keeps only the points that can be told apart at a tenth of a pixel, so a chart of millions
of pairs is as small as one of thousands. Colours come from the style of the page around it.
"""

import dataclasses
import html
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.evaluation import metrics

Floats = NDArray[np.float64]

_deviate = np.vectorize(statistics.NormalDist().inv_cdf, otypes=[np.float64])
_SCALES: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda values: values,
    "log": np.log10,
    "deviate": _deviate,
}
# Ticks of a "deviate" axis, the first ones first where room is short.
_RATES = (0.01, 0.1, 0.4, 1e-3, 1e-4, 1e-5, 1e-6, 0.8, 0.95, 0.99, 0.2, 0.05, 0.6, 0.02, 2e-3)


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`.

    Attributes:
        label: its name and unit.
        low, high: its ends; over 0 for "log", inside (0, 1) for "deviate".
        scale: "linear", "log", or "deviate" (a rate by the deviate of the normal distribution,
            on which the DET curve of normally distributed scores is a straight line).
    """

    label: str
    low: float
    high: float
    scale: str = "linear"

    def share(self, values: ArrayLike) -> Floats:
        """Returns where values lie, from 0 at `low` to 1 at `high`; those outside lie at its ends.

        >>> Axis("FAR", 0.01, 1, "log").share([0.1, 0.5, 0]).round(2).tolist()
        [0.5, 0.85, 0.0]
        """
        scale = _SCALES[self.scale]
        low, high = scale(np.array([self.low, self.high]))
        inside = np.clip(np.asarray(values, np.float64), self.low, self.high)
        return (scale(inside) - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Returns round values and their texts as SVG."""
        if self.scale == "log":
            first, last = math.ceil(math.log10(self.low) - 1e-9), round(math.log10(self.high))
            powers = range(last, first - 1, -1 - (last - first) // 8)
            raised = "10<tspan dy='-5' font-size='9'>{}</tspan>"
            return [(10.0**k, "1" if k == 0 else raised.format(k)) for k in powers]
        if self.scale == "deviate":
            rates: list[float] = []
            for rate in _RATES:
                apart = np.abs(self.share(rates) - self.share(rate))
                if self.low <= rate <= self.high and (apart > 0.1).all():
                    rates.append(rate)
            return [(rate, f"{100 * rate:g}") for rate in sorted(rates)]
        step = _step((self.high - self.low) / 6)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [step * k for k in range(first, last + 1)]
        return [(value, f"{round(value, 10):,.6g}") for value in values]


class Chart:
    """A small SVG chart: two axes, and marks in the coordinates of the data.

    Args:
        x, y: the axes.
        name: what the chart shows, for those who do not see it.

    Example:

    >>> chart = Chart(Axis("epoch", 0, 2), Axis("loss", 0, 1), "Loss by epoch")
    >>> chart.line([0, 1, 2], [1, 0.5, 0.25], "curve")
    >>> 'points="52,12 240,124 428,180"' in str(chart)
    True
    """

    width, height, left, right, top, bottom = 440, 280, 52, 12, 12, 44

    def __init__(self, x: Axis, y: Axis, name: str) -> None:
        self.x, self.y, self.name = x, y, name
        self.marks: list[str] = []
        base, end = self.height - self.bottom, self.width - self.right
        for value, label in x.ticks():
            column = self.place(value, y.low)[0]
            self.marks.append(
                f'<line class="grid" x1="{column}" x2="{column}" y1="{self.top}" y2="{base}"/>'
                f'<text x="{column}" y="{base + 18}" text-anchor="middle">{label}</text>'
            )
        for value, label in y.ticks():
            row = self.place(x.low, value)[1]
            self.marks.append(
                f'<line class="grid" x1="{self.left}" x2="{end}" y1="{row}" y2="{row}"/>'
                f'<text x="{self.left - 7}" y="{row + 4:g}" text-anchor="end">{label}</text>'
            )
        across, up = (self.left + end) / 2, (self.top + base) / 2
        self.marks.append(
            f'<text x="{across}" y="{self.height - 6}" text-anchor="middle">'
            f"{html.escape(x.label)}</text>"
            f'<text x="13" y="{up}" text-anchor="middle" transform="rotate(-90 13 {up})">'
            f"{html.escape(y.label)}</text>"
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Returns the pixel of a point."""
        columns, rows = self._places([x], [y])
        return float(columns[0]), float(rows[0])

    def line(self, x: ArrayLike, y: ArrayLike, kind: str) -> None:
        """Draws a line through points, less those that the eye could not tell from their like."""
        corners = _corners(np.asarray(x, np.float64), np.asarray(y, np.float64))
        columns, rows = _corners(*self._places(*corners))
        points = zip(columns.tolist(), rows.tolist(), strict=True)
        path = " ".join(f"{column:g},{row:g}" for column, row in points)
        self.marks.append(f'<polyline class="{kind}" points="{path}"/>')

    def bar(self, start: float, stop: float, height: float, kind: str) -> None:
        """Draws a bar from the foot of the chart."""
        left, top = self.place(start, height)
        right, base = self.place(stop, self.y.low)
        size = f'width="{max(right - left - 0.5, 0.5):g}" height="{max(base - top, 0):g}"'
        self.marks.append(f'<rect class="{kind}" x="{left:g}" y="{top:g}" {size}/>')

    def limit(self, x: float) -> None:
        """Draws an upright line, such as a threshold."""
        column, top = self.place(x, self.y.high)
        base = self.height - self.bottom
        self.marks.append(
            f'<line class="limit" x1="{column:g}" x2="{column:g}" y1="{top:g}" y2="{base}"/>'
        )

    def dot(self, x: float, y: float, label: str) -> None:
        """Draws a dot whose label a pointer reveals."""
        column, row = self.place(x, y)
        title = f"<title>{html.escape(label)}</title>"
        self.marks.append(f'<circle cx="{column:g}" cy="{row:g}" r="4">{title}</circle>')

    def _places(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        across = self.left + self.x.share(x) * (self.width - self.left - self.right)
        up = self.y.share(y) * (self.height - self.top - self.bottom)
        return across.round(1), (self.height - self.bottom - up).round(1)

    def __str__(self) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{html.escape(self.name)}">{"".join(self.marks)}</svg>'
        )


def roc(
    similarities: ArrayLike, same: ArrayLike, points: Sequence[metrics.OperatingPoint] = ()
) -> Chart:
    """Returns the ROC, with chance dashed, on a logarithmic FAR axis that ends below one accept.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans of both kinds.
        points: measured ones to mark; those that could not be measured are left out.

    Raises:
        DataError: as `metrics.roc`.
    """
    far, tar, _ = metrics.roc(similarities, same)
    floor = 10.0 ** min(-1, math.floor(math.log10(far[far > 0][0])))
    chart = Chart(
        Axis("false accept rate (FAR)", floor, 1, "log"),
        Axis("true accept rate (TAR)", 0, 1),
        "ROC: true accept rate over false accept rate" + _said(points),
    )
    grid = np.geomspace(floor, 1, 60)
    chart.line(grid, grid, "chance")
    shown = slice(int(np.flatnonzero(far == 0)[-1]), None)
    chart.line(far[shown], tar[shown], "curve")
    _mark(chart, points, lambda tar: tar)
    return chart


def det(
    similarities: ArrayLike, same: ArrayLike, points: Sequence[metrics.OperatingPoint] = ()
) -> Chart | None:
    """Returns the DET curve: false rejects over false accepts, both by normal deviates.

    The dashed line holds equal error rates (Martin et al., "The DET curve in assessment of
    detection task performance", Eurospeech 1997). Arguments and errors as in `roc`.

    Returns:
        The chart, or None where no threshold makes errors of both kinds (or only huge ones): there
        is no curve.
    """
    far, tar, _ = metrics.roc(similarities, same)
    frr = 1 - tar
    ceiling = 0.6 if metrics.eer(similarities, same) < 0.4 else 0.995
    seen = np.flatnonzero((far > 0) & (frr > 0) & (np.maximum(far, frr) <= ceiling))
    if not seen.size:
        return None
    x = Axis("false accept rate, %", 0.8 * far[far > 0][0], ceiling, "deviate")
    y = Axis("false reject rate, %", 0.8 * frr[frr > 0][-1], ceiling, "deviate")
    name = "DET: false reject rate over false accept rate, on normal deviates"
    chart = Chart(x, y, name + _said(points))
    ends = [max(x.low, y.low), ceiling]
    chart.line(ends, ends, "chance")
    shown = slice(max(int(seen[0]) - 1, 0), int(seen[-1]) + 2)  # the ends lie on the edge
    chart.line(far[shown], frr[shown], "curve")
    _mark(chart, points, lambda tar: 1 - tar)
    return chart


def _mark(
    chart: Chart,
    points: Sequence[metrics.OperatingPoint],
    height: Callable[[float], float],
) -> None:
    for point in points:
        y = height(point.tar)
        if chart.x.low <= point.far <= chart.x.high and chart.y.low <= y <= chart.y.high:
            chart.dot(point.far, y, f"threshold {point.threshold:.4f}{_said([point])}")


def _said(points: Sequence[metrics.OperatingPoint]) -> str:
    return "".join(f"; TAR {p.tar:.2%} at FAR {p.wanted_far:g}" for p in points if not p.reason)


def histogram(
    values: ArrayLike, same: ArrayLike, label: str, thresholds: Sequence[float] = ()
) -> Chart:
    """Returns histograms of same and different pairs over each other, each of 100 % in all.

    Args:
        values: (pairs,) finite similarities, or their angles.
        same: (pairs,) booleans of both kinds.
        label: of the values.
        thresholds: drawn as upright lines.
    """
    numbers, truth = np.asarray(values, np.float64), metrics.booleans(same)
    step = _step((float(np.ptp(numbers)) or 1.0) / 60)
    first, last = math.floor(numbers.min() / step), math.floor(numbers.max() / step) + 1
    edges = step * np.arange(first, last + 1)
    inside = np.clip(numbers, edges[0], edges[-1])  # against rounding
    shares = [100 * np.histogram(inside[kind], edges)[0] / kind.sum() for kind in (~truth, truth)]
    chart = Chart(
        Axis(label, float(edges[0]), float(edges[-1])),
        Axis("% of the pairs of a kind", 0, 1.05 * max(share.max() for share in shares)),
        f"Histogram of same and different pairs by {label}",
    )
    for kind, share in zip(("different", "same"), shares, strict=True):
        for start, stop, height in zip(edges[:-1], edges[1:], share, strict=True):
            if height > 0:
                chart.bar(float(start), float(stop), float(height), kind)
    for threshold in thresholds:
        chart.limit(threshold)
    return chart


def _corners(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Leaves out points that repeat the one before, and those inside a level or upright stretch."""
    keep = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    x, y = x[keep], y[keep]
    right, up = np.diff(x), np.diff(y)
    level = (up[1:] == 0) & (up[:-1] == 0) & (right[1:] * right[:-1] > 0)
    upright = (right[1:] == 0) & (right[:-1] == 0) & (up[1:] * up[:-1] > 0)
    keep = np.concatenate([[True], ~(level | upright), [True]])[: x.size]
    return x[keep], y[keep]


def _step(rough: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(f for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
