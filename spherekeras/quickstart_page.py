"""The page that a quickstart leaves behind: one HTML file that shows what was learned.

The sphere is turned by a few lines of JavaScript; all else on it stands still.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from spherekeras import html_page
from spherekeras.errors import DataError
from spherekeras.evaluation import charts, metrics
from spherekeras.html_page import facts, image, section, text


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
canvas { display: block; width: 100%; height: auto; touch-action: pan-y; cursor: grab;
  max-width: 460px; margin: 0 auto; aspect-ratio: 1; }
.strip { display: flex; gap: 10px; overflow-x: auto; padding-bottom: 6px; }
figure { flex: 0 0 auto; } figure img { display: block; border-radius: 10px; }
figure img + img { margin: 8px auto 0; border-radius: 6px; }
.scroll { overflow-x: auto; } thead th { border-top: 0; color: var(--soft); font-weight: 600; }
thead th, .scroll th { white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
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
        section("Receiver operating characteristic", _roc(results), "two"),
        section("Angles between embeddings", _angles(results), "two"),
        _sphere(results.sphere_points, results.sphere_labels),
        *(_curve(name, values) for name, values in results.history.items()),
        _exports(results.exports),
        *(
            section(title, facts(rows), "two")
            for card in results.cards
            for title, rows in card.items()
        ),
        section("Where these numbers come from", facts(results.environment))
        if results.environment
        else "",
    ]
    html_page.write(path, "SphereKeras quickstart", parts, _STYLE, _TURN)


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


def _headline(results: QuickstartResults) -> str:
    same = int(np.sum(results.same))
    return (
        "<header>\n<h1>Of two pictures of people it has never seen, this embedding says rightly "
        f"whether they show one person in <b>{100 * results.accuracy:.1f}%</b> of the pairs, on "
        f"average over those of one and those of two (AUC <b>{results.auc:.4f}</b>).</h1>\n"
        f"<p>Open-set verification on faces drawn by SphereKeras: {same:,} pairs of one identity, "
        f"{len(results.same) - same:,} pairs of two, "
        "no identity shared with training. Drawn faces show that the machinery works; they say "
        "nothing about accuracy on photographs.</p>\n</header>"
    )


def _faces(pictures: Sequence[np.ndarray], crops: Sequence[np.ndarray]) -> str:
    if not pictures:
        return ""
    figures = "\n".join(
        f"<figure>{image(picture, 'drawn face', 120)}{image(crop, 'its crop', 84)}</figure>"
        for picture, crop in zip(pictures, crops, strict=True)
    )
    words = "<p>Each picture, and below it the crop that its five landmarks give.</p>"
    return section("Drawn faces", f'{words}\n<div class="strip">\n{figures}\n</div>')


def _roc(results: QuickstartResults) -> str:
    pairs = results.similarities, results.same
    points = [metrics.operating_point(*pairs, far) for far in (0.1, 0.01, 0.001)]
    found = [f"TAR {100 * p.tar:.1f}% at FAR {p.wanted_far:g}" for p in points if not p.reason]
    words = "; ".join([f"AUC {results.auc:.4f}", *found])
    return f"{charts.roc(*pairs, points)}\n<p>{words}. Dashed: chance.</p>"


def _angles(results: QuickstartResults) -> str:
    angles = np.degrees(np.arccos(np.clip(np.asarray(results.similarities, float), -1, 1)))
    same = np.asarray(results.same)
    keys = [
        f'<span class="key {kind}">{kind} identity, mean {angles[pick].mean():.1f}°</span>'
        for kind, pick in (("same", same), ("different", ~same))
    ]
    return f"{charts.histogram(angles, same, 'angle, degrees')}\n<p>{' '.join(keys)}</p>"


def _curve(name: str, values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    low, high = min(0.0, *values), max(values)
    y = charts.Axis(name, low, high if high > low else low + 1)
    chart = charts.Chart(charts.Axis("epoch", 1, len(values)), y, f"{name} by epoch")
    chart.line(np.arange(1, len(values) + 1), values, "curve")
    ends = f"<p>First {values[0]:.4g}, last {values[-1]:.4g}.</p>"
    return section(f"Training: {name}", f"{chart}\n{ends}", "two")


def _sphere(points: np.ndarray, labels: np.ndarray) -> str:
    points = np.asarray(points, float)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    _, numbers = np.unique(np.asarray(labels), return_inverse=True)
    rows = [[*map(float, point.round(3)), int(n)] for point, n in zip(points, numbers, strict=True)]
    words = (
        f"<p>{len(rows)} embeddings of {int(numbers.max(initial=-1)) + 1} identities on the unit "
        "sphere, one colour an identity. Drag to turn.</p>"
    )
    data = f'<script type="application/json" id="points">{json.dumps(rows)}</script>'
    canvas = '<canvas role="img" aria-label="embeddings on the unit sphere"></canvas>'
    return section("The hypersphere, in three dimensions", f"{words}\n{canvas}\n{data}")


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
            f'<tr><th>{text(export["format"])}</th><td class="{kind}">{text(export["verdict"])}'
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
    return section("Exports and their parity", body)
