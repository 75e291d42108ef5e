"""The page that a quickstart leaves behind: one HTML file that shows what was learned.

It needs no network and no library: pictures are inline JPEG, charts are SVG written here, and
the sphere is turned by a few lines of JavaScript. Its content security policy forbids all else.
"""

import base64
import dataclasses
import html
import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from spherekeras.errors import DataError
from spherekeras.files import atomic_path


@dataclasses.dataclass(frozen=True)
class QuickstartResults:
    """What a quickstart measured, as plain numbers.

    Attributes:
        history: one value an epoch by name, such as `"loss"` and `"lambda"`; one chart each.
        similarities: `(n,)` cosines of the verification pairs.
        same: `(n,)` bool, True where a pair shows one identity.
        accuracy: verification accuracy in [0, 1] on identities that training never saw.
        auc: area under the ROC in [0, 1].
        sphere_points: `(m, 3)` embeddings to show on the sphere, any length but 0.
        sphere_labels: `(m,)` integers, the identity of each point.
        pictures: RGB uint8 arrays `(h, w, 3)`, the drawn faces.
        crops: their aligned crops, in the same order.
        exports: a dict for each exported file with the keys `format`, `size_mb`,
            `max_difference`, `min_cosine` and `verdict` (`"pass"` or what is wrong).
        environment: versions, machine and command line by name.
        cards: preset cards, each `{title: {key: value}}`.
    """

    history: dict[str, list[float]]
    similarities: np.ndarray
    same: np.ndarray
    accuracy: float
    auc: float
    sphere_points: np.ndarray
    sphere_labels: np.ndarray
    pictures: list[np.ndarray]
    crops: list[np.ndarray]
    exports: list[dict]
    environment: dict[str, str]
    cards: list[dict[str, dict[str, str]]] = dataclasses.field(default_factory=list)


_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f9; --card: #fff; --ink: #1d2330; --soft: #5d6678;
  --line: #e2e6ee; --accent: #3557d6; --same: #0f8f83; --different: #d9622b; --good: #0b7a55;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #12151c; --card: #1b2029; --ink: #e9ecf3;
  --soft: #9aa4b7; --line: #2d3442; --accent: #8fa8ff; --same: #3fc9ba; --different: #ff9a63;
  --good: #56d3a2; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui,
  -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; display: grid; gap: 18px;
  grid-template-columns: repeat(2, minmax(0, 1fr)); }
header, section { grid-column: span 2; min-width: 0; }
.two { grid-column: span 1; }
@media (max-width: 760px) { .two { grid-column: span 2; } }
header p { margin: 0; color: var(--soft); max-width: 70ch; }
h1 { font-size: clamp(1.45rem, 4.2vw, 2.1rem); line-height: 1.25; margin: 0 0 .4em;
  letter-spacing: -.01em; text-wrap: balance; }
h1 b { color: var(--accent); font-weight: 700; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 16px 18px; }
h2 { font-size: 1.02rem; margin: 0 0 .4em; }
section p { color: var(--soft); font-size: .9rem; margin: .5em 0 0; }
section h2 + p { margin: 0 0 1em; }
svg, canvas { display: block; width: 100%; height: auto; } canvas { touch-action: pan-y;
  cursor: grab; max-width: 460px; margin: 0 auto; aspect-ratio: 1; }
svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
.curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.chance { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
.same { fill: var(--same); } .different { fill: var(--different); } rect { fill-opacity: .62; }
.key { font-weight: 600; display: inline-block; margin-right: 1em; }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em;
  border-radius: 3px; margin-right: .4em; background: currentColor; }
.key.same { color: var(--same); } .key.different { color: var(--different); }
.strip { display: flex; gap: 10px; overflow-x: auto; padding-bottom: 6px; }
figure { margin: 0; flex: 0 0 auto; text-align: center; } figure img { display: block;
  border-radius: 10px; } figure img + img { margin: 8px auto 0; border-radius: 6px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .45em 1.2em .45em 0; border-top: 1px solid var(--line);
  vertical-align: top; } thead th { border-top: 0; color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; } thead th, .scroll th { white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; } .facts th { width: 34%; color: var(--soft); }
.facts td { overflow-wrap: anywhere; } .good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
"""

_TURN = """
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
const points = JSON.parse(document.getElementById("points").textContent);
let yaw = 0.6, pitch = 0.35, held = null;
let spin = !matchMedia("(prefers-reduced-motion: reduce)").matches;
function turn([x, y, z]) {
  const a = x * Math.cos(yaw) + z * Math.sin(yaw), b = z * Math.cos(yaw) - x * Math.sin(yaw);
  return [a, y * Math.cos(pitch) - b * Math.sin(pitch), b * Math.cos(pitch) + y * Math.sin(pitch)];
}
function draw() {
  const size = canvas.clientWidth * devicePixelRatio, r = size * 0.45;
  const style = getComputedStyle(canvas);
  if (canvas.width !== Math.round(size)) canvas.width = canvas.height = Math.round(size);
  const at = ([x, y]) => [size / 2 + r * x, size / 2 - r * y];
  pen.clearRect(0, 0, size, size);
  pen.strokeStyle = style.getPropertyValue("--soft");
  pen.lineWidth = devicePixelRatio;
  pen.globalAlpha = 0.7;
  pen.beginPath(); pen.arc(size / 2, size / 2, r, 0, 7); pen.stroke();
  const circle = (ring) => {
    for (let k = 0; k < 72; k++) {
      const [p, q] = [turn(ring(k * Math.PI / 36)), turn(ring((k + 1) * Math.PI / 36))];
      pen.globalAlpha = p[2] > 0 ? 0.35 : 0.12;
      pen.beginPath(); pen.moveTo(...at(p)); pen.lineTo(...at(q)); pen.stroke();
    }
  };
  for (let k = 0; k < 6; k++) {
    const c = Math.cos(k * Math.PI / 6), s = Math.sin(k * Math.PI / 6);
    circle(t => [c * Math.cos(t), Math.sin(t), s * Math.cos(t)]);
  }
  for (const h of [-0.5, 0, 0.5]) {
    const w = Math.sqrt(1 - h * h);
    circle(t => [w * Math.cos(t), h, w * Math.sin(t)]);
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const seen = points.map(p => [turn(p), p[3]]).sort((a, b) => a[0][2] - b[0][2]);
  for (const [p, label] of seen) {
    pen.globalAlpha = 0.62 + 0.38 * p[2];
    pen.fillStyle = `hsl(${label * 137.508 % 360} 72% ${dark ? 64 : 44}%)`;
    pen.beginPath(); pen.arc(...at(p), size * (0.0085 + 0.003 * p[2]), 0, 7); pen.fill();
  }
}
canvas.addEventListener("pointerdown", e => {
  held = [e.clientX, e.clientY]; spin = false; canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointermove", e => {
  if (!held) return;
  yaw += (e.clientX - held[0]) * 0.009;
  pitch = Math.max(-1.5, Math.min(1.5, pitch + (e.clientY - held[1]) * 0.009));
  held = [e.clientX, e.clientY]; draw();
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => held = null);
addEventListener("resize", draw);
(function frame() { if (spin) { yaw += 0.004; requestAnimationFrame(frame); } draw(); })();
"""


def write_page(path: str | os.PathLike[str], results: QuickstartResults) -> None:
    """Writes the results of a quickstart as one self-contained HTML page.

    Args:
        path: the file to write, usually `*.html`.
        results: what was measured. Empty parts (no pictures, exports, cards) are left out.

    Raises:
        DataError: arrays whose shapes do not belong together, values that are not finite, or
            pairs of one kind only.

    Example:

    >>> import pathlib, tempfile
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "quickstart.html"
    >>> results = QuickstartResults(
    ...     history={"loss": [4.6, 1.2, 0.3]}, similarities=np.array([0.8, 0.1]),
    ...     same=np.array([True, False]), accuracy=1.0, auc=1.0, sphere_points=np.eye(3),
    ...     sphere_labels=np.arange(3), pictures=[], crops=[], exports=[], environment={})
    >>> write_page(page, results)
    >>> page.read_text(encoding="utf-8").startswith("<!doctype html>")
    True
    """
    _check(results)
    parts = [
        _headline(results),
        _faces(results.pictures, results.crops),
        _section("Receiver operating characteristic", _roc(results), "two"),
        _section("Angles between embeddings", _angles(results), "two"),
        _sphere(results.sphere_points, results.sphere_labels),
        *(_curve(name, values) for name, values in results.history.items()),
        _exports(results.exports),
        *(
            _section(title, _facts(rows), "two")
            for card in results.cards
            for title, rows in card.items()
        ),
        _section("Where these numbers come from", _facts(results.environment))
        if results.environment
        else "",
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<title>SphereKeras quickstart</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<script>{_TURN}</script>\n</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _check(results: QuickstartResults) -> None:
    similarities, same = np.asarray(results.similarities), np.asarray(results.same)
    if similarities.ndim != 1 or similarities.shape != same.shape or same.dtype != bool:
        raise DataError(
            "`similarities` and `same` expect arrays of one shape (n,), float and bool. Received: "
            f"{similarities.shape} {similarities.dtype} and {same.shape} {same.dtype}. "
            "For labels of pairs pass `same=labels_a == labels_b`."
        )
    if same.all() or not same.any():
        raise DataError(
            "`same` expects pairs of both kinds. Received: "
            f"{int(same.sum())} of the same and {int((~same).sum())} of different identities. "
            "Add the missing kind."
        )
    points, labels = np.asarray(results.sphere_points), np.asarray(results.sphere_labels)
    if points.ndim != 2 or points.shape[1] != 3 or labels.shape != points.shape[:1]:
        raise DataError(
            "`sphere_points` and `sphere_labels` expect the shapes (n, 3) and (n,). "
            f"Received: {points.shape} and {labels.shape}. "
            "Project longer embeddings to three dimensions first."
        )
    if len(results.pictures) != len(results.crops):
        raise DataError(
            "`pictures` and `crops` expect lists of one length. Received: "
            f"{len(results.pictures)} and {len(results.crops)}. Pass each picture's own crop."
        )
    for name, values in (
        ("similarities", similarities),
        ("sphere_points", points),
        *((f"history[{key!r}]", np.asarray(series)) for key, series in results.history.items()),
    ):
        if not np.isfinite(values).all():
            raise DataError(
                f"`{name}` expects finite numbers. Received: "
                f"{int((~np.isfinite(values)).sum())} that are NaN or infinite. Drop those first."
            )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _section(title: str, body: str, width: str = "") -> str:
    return f'<section class="{width}">\n<h2>{_text(title)}</h2>\n{body}\n</section>'


def _headline(results: QuickstartResults) -> str:
    same = int(np.sum(results.same))
    return (
        "<header>\n<h1>Of two pictures of people it has never seen, this embedding says rightly "
        f"whether they show one person in <b>{100 * results.accuracy:.1f}%</b> of the pairs "
        f"(AUC <b>{results.auc:.4f}</b>).</h1>\n<p>Open-set verification on faces drawn by "
        f"SphereKeras: {same:,} pairs of one identity, {len(results.same) - same:,} pairs of two, "
        "no identity shared with training. Drawn faces show that the machinery works; they say "
        "nothing about accuracy on photographs.</p>\n</header>"
    )


def _image(pixels: np.ndarray, alt: str, height: int) -> str:
    import cv2

    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError(
            "`pictures` and `crops` expect RGB uint8 arrays of shape (height, width, 3). "
            f"Received: shape={pixels.shape}, dtype={pixels.dtype}."
        )
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    width = round(pixels.shape[1] * height / pixels.shape[0])
    code = base64.b64encode(data.tobytes()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{code}" alt="{alt}" width="{width}" height="{height}">'
    )


def _faces(pictures: Sequence[np.ndarray], crops: Sequence[np.ndarray]) -> str:
    if not pictures:
        return ""
    figures = "\n".join(
        f"<figure>{_image(picture, 'drawn face', 120)}{_image(crop, 'its crop', 84)}</figure>"
        for picture, crop in zip(pictures, crops, strict=True)
    )
    text = "<p>Each picture, and below it the crop that its five landmarks give.</p>"
    return _section("Drawn faces", f'{text}\n<div class="strip">\n{figures}\n</div>')


class _Chart:
    """A small SVG chart: two axes, and marks in the coordinates of the data."""

    width, height, left, right, top, bottom = 440, 280, 52, 12, 12, 44

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        log: bool = False,
    ) -> None:
        self.x, self.y, self.log = x, y, log
        self.name = f"{labels[1]} over {labels[0]}"
        self.marks: list[str] = []
        if log:
            decades = range(math.ceil(math.log10(x[0]) - 1e-9), round(math.log10(x[1])) + 1)
            x_ticks = [
                (10.0**k, "1" if k == 0 else f"10<tspan dy='-5' font-size='9'>{k}</tspan>")
                for k in decades
            ]
        else:
            x_ticks = _ticks(*x)
        base, end = self.height - self.bottom, self.width - self.right
        for value, text in x_ticks:
            column = self.place(value, y[0])[0]
            self.mark(
                f'<line class="grid" x1="{column}" x2="{column}" y1="{self.top}" y2="{base}"/>'
            )
            self.mark(f'<text x="{column}" y="{base + 17}" text-anchor="middle">{text}</text>')
        for value, text in _ticks(*y):
            row = self.place(x[0], value)[1]
            self.mark(f'<line class="grid" x1="{self.left}" x2="{end}" y1="{row}" y2="{row}"/>')
            self.mark(f'<text x="{self.left - 7}" y="{row + 4:g}" text-anchor="end">{text}</text>')
        middle = (self.left + end) / 2
        place = f'x="{middle}" y="{self.height - 6}" text-anchor="middle"'
        self.mark(f"<text {place}>{_text(labels[0])}</text>")
        middle = (self.top + base) / 2
        place = f'x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})"'
        self.mark(f"<text {place}>{_text(labels[1])}</text>")

    def mark(self, element: str) -> None:
        self.marks.append(element)

    def place(self, x: float, y: float) -> tuple[float, float]:
        low, high = self.x
        if self.log:
            x, low, high = math.log10(max(x, low)), math.log10(low), math.log10(high)
        across = self.left + (x - low) / (high - low) * (self.width - self.left - self.right)
        up = (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.top - self.bottom)
        return round(across, 1), round(self.height - self.bottom - up, 1)

    def line(self, x: Sequence[float], y: Sequence[float], kind: str) -> None:
        path = " ".join("{:g},{:g}".format(*self.place(a, b)) for a, b in zip(x, y, strict=True))
        self.mark(f'<polyline class="{kind}" points="{path}"/>')

    def bar(self, start: float, stop: float, height: float, kind: str) -> None:
        left, top = self.place(start, height)
        right, base = self.place(stop, self.y[0])
        size = f'width="{max(right - left - 0.5, 0.5):g}" height="{max(base - top, 0):g}"'
        self.mark(f'<rect class="{kind}" x="{left:g}" y="{top:g}" {size}/>')

    def __str__(self) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{_text(self.name)}">{"".join(self.marks)}</svg>'
        )


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """About five round numbers of a range, and their texts."""
    rough = (high - low) / 6
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step >= rough * 0.999)
    values = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return [(float(value), f"{round(float(value), 10):,.6g}") for value in values]


def _roc(results: QuickstartResults) -> str:
    """The ROC with a logarithmic FAR axis that ends at one false accept."""
    scores, same = np.asarray(results.similarities, float), np.asarray(results.same)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # tied scores are accepted together
    accepted = np.cumsum(same[order])[last] / same.sum()
    false = np.cumsum(~same[order])[last] / (~same).sum()
    floor = 10.0 ** min(-1, math.floor(-math.log10((~same).sum())))
    chart = _Chart(
        (floor, 1.0), (0.0, 1.0), ("false accept rate (FAR)", "true accept rate (TAR)"), log=True
    )
    grid = np.geomspace(floor, 1, 60).tolist()
    chart.line(grid, grid, "chance")
    # A step curve: TAR rises at once, then FAR grows.
    x = np.repeat(np.concatenate([[floor], np.maximum(false, floor)]), 2)[1:]
    y = np.repeat(np.concatenate([[0.0], accepted]), 2)[:-1]
    keep = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
    chart.line(x[keep].tolist(), y[keep].tolist(), "curve")
    rates = [far for far in (0.1, 0.01, 0.001) if far * (~same).sum() >= 1]
    found = [
        f"TAR {100 * accepted[false <= far].max(initial=0):.1f}% at FAR {far:g}" for far in rates
    ]
    return f"{chart}\n<p>{'; '.join([f'AUC {results.auc:.4f}', *found])}. Dashed: chance.</p>"


def _angles(results: QuickstartResults) -> str:
    angles = np.degrees(np.arccos(np.clip(np.asarray(results.similarities, float), -1, 1)))
    same = np.asarray(results.same)
    low = 10 * math.floor(angles.min() / 10)
    high = max(10 * math.ceil(angles.max() / 10), low + 10)
    edges = np.linspace(low, high, 41)
    shares = [np.histogram(angles[pick], edges)[0] / pick.sum() * 100 for pick in (~same, same)]
    top = max(share.max() for share in shares) * 1.05
    chart = _Chart((low, high), (0.0, top), ("angle, degrees", "% of the pairs of a kind"))
    keys = []
    for kind, share, pick in zip(("different", "same"), shares, (~same, same), strict=True):
        for start, stop, height in zip(edges[:-1], edges[1:], share, strict=True):
            if height > 0:
                chart.bar(float(start), float(stop), float(height), kind)
        mean = angles[pick].mean()
        keys.append(f'<span class="key {kind}">{kind} identity, mean {mean:.1f}°</span>')
    return f"{chart}\n<p>{keys[1]} {keys[0]}</p>"


def _curve(name: str, values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    low, high = min(0.0, *values), max(values)
    chart = _Chart((1, len(values)), (low, high if high > low else low + 1), ("epoch", name))
    chart.line(list(range(1, len(values) + 1)), list(values), "curve")
    text = f"<p>First {values[0]:.4g}, last {values[-1]:.4g}.</p>"
    return _section(f"Training: {name}", f"{chart}\n{text}", "two")


def _sphere(points: np.ndarray, labels: np.ndarray) -> str:
    points = np.asarray(points, float)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    _, numbers = np.unique(np.asarray(labels), return_inverse=True)
    rows = [[*map(float, point.round(3)), int(n)] for point, n in zip(points, numbers, strict=True)]
    text = (
        f"<p>{len(rows)} embeddings of {int(numbers.max(initial=-1)) + 1} identities on the unit "
        "sphere, one colour an identity. Drag to turn.</p>"
    )
    data = f'<script type="application/json" id="points">{json.dumps(rows)}</script>'
    canvas = '<canvas role="img" aria-label="embeddings on the unit sphere"></canvas>'
    return _section("The hypersphere, in three dimensions", f"{text}\n{canvas}\n{data}")


def _exports(exports: Sequence[Mapping[str, object]]) -> str:
    if not exports:
        return ""
    columns = ("format", "verdict", "size_mb", "max_difference", "min_cosine")
    rows = []
    for export in exports:
        if missing := [name for name in columns if name not in export]:
            raise DataError(
                f"Each of `exports` expects the keys {', '.join(columns)}. "
                f"Received: {sorted(export)}. Add {', '.join(missing)}."
            )
        kind = "good" if export["verdict"] == "pass" else "bad"
        rows.append(
            f'<tr><th>{_text(export["format"])}</th><td class="{kind}">{_text(export["verdict"])}'
            f'</td><td class="number">{export["size_mb"]:.2f}</td>'
            f'<td class="number">{export["max_difference"]:.1e}</td>'
            f'<td class="number">{export["min_cosine"]:.6f}</td></tr>'
        )
    body = (
        "<p>Each file was run in its own runtime on the pictures that Keras was run on.</p>\n"
        '<div class="scroll"><table><thead><tr><th>format</th><th>verdict</th>'
        '<th class="number">MB</th><th class="number">max difference</th>'
        '<th class="number">min cosine</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _section("Exports and their parity", body)


def _facts(rows: Mapping[str, object]) -> str:
    cells = (
        f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in rows.items()
    )
    return f'<table class="facts"><tbody>{"".join(cells)}</tbody></table>'
