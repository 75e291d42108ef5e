"""A verification result as a page to look at: numbers, curves, and the pairs that went wrong."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras import html_page
from spherekeras.errors import DataError
from spherekeras.evaluation import charts, metrics
from spherekeras.evaluation.verification import VerificationResult
from spherekeras.html_page import facts, image, section, text

_SHOWN = 12  # pairs of a kind, and pictures without a face

_STYLE = """
.numbers { display: grid; gap: 18px 24px; margin: 22px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.numbers dt { color: var(--soft); font-size: .9rem; } .numbers dd { margin: 0; }
.numbers dd b { font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.numbers dd + dd { color: var(--soft); font-size: .82rem; line-height: 1.4; }
.pairs { display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.pairs figure > div { display: flex; gap: 4px; justify-content: center; }
.pairs img { max-width: calc(50% - 2px); height: auto; }
figcaption { font-size: .8rem; line-height: 1.4; color: var(--soft); margin-top: .35em;
  overflow-wrap: anywhere; } figcaption b { color: var(--ink); font-size: .95rem; }
details { margin-top: 1em; font-size: .9rem; color: var(--soft); overflow-wrap: anywhere; }
summary { cursor: pointer; } h2.next { margin-top: 1.4em; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
@media (max-width: 480px) { .pairs { gap: 16px 12px;
  grid-template-columns: repeat(auto-fill, minmax(138px, 1fr)); }
  .numbers { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""


class Number(NamedTuple):
    """A measured number: its name, its value as text, and what is known of its uncertainty."""

    name: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a page shows of a verification result, whatever its protocol.

    Attributes:
        title: one line, such as "sphere4_asoftmax on LFW view 2".
        similarities: (pairs,) finite numbers, higher meaning more alike.
        same: (pairs,) booleans of both kinds.
        thresholds: one number, or (pairs,) where folds have thresholds of their own: what decided
            each pair. A pair is accepted from its threshold on.
        numbers: in the order of the page.
        protocol: one sentence with all that the numbers depend on.
        environment: versions, machine and command by name.
        fars: FARs whose points are marked on the curves, where the pairs are enough for them.
        names: (pairs,) names of the two pictures of each pair; None where they have none.
        crop: from a picture's name to its crop, RGB uint8 (height, width, 3); it is asked for the
            few that the page shows. None leaves the pictures out.
        no_face: pictures without a detected face; None where no detector was used.
    """

    title: str
    similarities: ArrayLike
    same: ArrayLike
    thresholds: ArrayLike
    numbers: Sequence[Number]
    protocol: str
    environment: Mapping[str, str]
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3)
    names: Sequence[tuple[str, str]] | None = None
    crop: Callable[[str], NDArray[np.uint8]] | None = None
    no_face: Sequence[str] | None = None


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Writes a verification result as one HTML page that needs no network.

    It shows ROC, DET curve, histograms with the thresholds, and the worst errors: of the pairs
    decided wrongly those farthest beyond their threshold. The same report gives the same bytes.

    Args:
        path: the file, usually `*.html`; `files.check_target` says beforehand whether it can
            be written.
        report: what to show.

    Raises:
        DataError: as `metrics.roc` and `metrics.accuracy`, or on names that are not one pair each.

    Example:

    >>> import pathlib, tempfile
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "report.html"
    >>> write_report(page, Report(
    ...     "A network on four pairs", [0.9, 0.3, 0.4, 0.1], [True, True, False, False], 0.35,
    ...     [Number("accuracy", "50.00 %")], "Four pairs.", {"keras": "3.15"}))
    >>> "Worst false accepts" in page.read_text(encoding="utf-8")
    True
    """
    similarities = np.asarray(report.similarities, np.float64)
    metrics.accuracy(similarities, report.same, report.thresholds)  # checks all three
    same = metrics.booleans(report.same)
    thresholds = np.broadcast_to(np.asarray(report.thresholds, np.float64), same.shape)
    if report.names is not None and len(report.names) != same.size:
        raise DataError(
            f"Expected the names of {same.size} pairs. Received: {len(report.names)}. Pass two "
            "names for each similarity, or `names=None`."
        )
    points = [metrics.operating_point(similarities, same, far) for far in report.fars]
    det = charts.det(similarities, same, points)
    excess = similarities - thresholds
    parts = [
        _headline(report, same),
        section("ROC", f"{charts.roc(similarities, same, points)}\n{_CHANCE}", "two"),
        section("DET", f"{det}\n{_EQUAL}" if det else _NO_ERRORS, "two"),
        section("Similarities", _histogram(similarities, same, thresholds), "two"),
        section("Operating points", f"{_points(points)}\n{_protocol(report)}", "two"),
        _errors(report, "accepts", excess, similarities, ~same & (excess >= 0)),
        _errors(report, "rejects", -excess, similarities, same & (excess < 0)),
        _no_face(report),
        section("Where these numbers come from", facts(report.environment)),
    ]
    html_page.write(path, report.title, parts, _STYLE)


def report_of(result: VerificationResult, title: str, environment: Mapping[str, str]) -> Report:
    """Returns what a page shows of a verification result; the other arguments as in `Report`."""

    def number(name: str, value: float, form: str, title: str, spread: str = "") -> Number:
        between = result.between(name, form)
        notes = filter(None, (spread, f"95 %: {between}" if between else ""))
        return Number(title, f"{value:{form}}", "; ".join(notes))

    spread = "" if math.isnan(result.std) else f"± {result.std:.2%} over the folds"
    accuracy = number("accuracy", result.accuracy, ".2%", "accuracy", spread)
    tars = [
        Number(f"TAR at FAR {far:g}", "–", result.unmeasured[far])
        if far in result.unmeasured
        else number(f"tar_at_far_{far:g}", tar, ".2%", f"TAR at FAR {far:g}")
        for far, tar in result.tar_at_far.items()
    ]
    auc = number("auc", result.auc, ".5f", "AUC")
    eer = number("eer", result.eer, ".2%", "EER")
    return Report(
        title=title,
        similarities=result.similarities,
        same=result.same,
        thresholds=result.pair_thresholds,
        numbers=[accuracy, auc, eer, *tars],
        protocol=result.protocol,
        environment=environment,
        fars=tuple(result.tar_at_far),
        names=result.names,
        crop=result.crop,
        no_face=result.no_face,
    )


_COLUMNS = ("FAR ≤", "FAR", "TAR", "threshold")
_CHANCE = "<p>Dots: the operating points. Dashed: chance.</p>"
_EQUAL = "<p>On normal deviates. Dots: the operating points. Dashed: equal error rates.</p>"
_NO_ERRORS = (
    "<p>These pairs are too well separated, or too few, for a curve: no threshold makes errors of "
    "both kinds.</p>"
)


def _headline(report: Report, same: NDArray[np.bool_]) -> str:
    numbers = "\n".join(
        f"<div><dt>{text(number.name)}</dt><dd><b>{text(number.value)}</b></dd>"
        f"{f'<dd>{text(number.note)}</dd>' if number.note else ''}</div>"
        for number in report.numbers
    )
    kinds = int(same.sum()), int((~same).sum())
    return (
        f"<header>\n<h1>{text(report.title)}</h1>\n<p>{kinds[0]:,} same pairs, {kinds[1]:,} "
        f'different pairs.</p>\n<dl class="numbers">\n{numbers}\n</dl>\n</header>'
    )


def _points(points: Sequence[metrics.OperatingPoint]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{point.wanted_far:g}</th>'
        + (
            f'<td colspan="3">{text(point.reason)}</td></tr>'
            if point.reason
            else f"<td>{100 * point.far:.3g}%</td><td>{point.tar:.2%}</td>"
            f"<td>{point.threshold:.4f}</td></tr>"
        )
        for point in points
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _protocol(report: Report) -> str:
    return f'<h2 class="next">Protocol</h2>\n<p>{text(report.protocol)}</p>'


def _histogram(
    similarities: NDArray[np.float64], same: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> str:
    limits = np.unique(thresholds)
    keys = " ".join(
        f'<span class="key {kind}">{kind}, mean {similarities[pick].mean():.3f}</span>'
        for kind, pick in (("same", same), ("different", ~same))
    )
    low, high = f"{limits[0]:.4f}", f"{limits[-1]:.4f}"
    lines = f"Line: the threshold, {low}." if low == high else ""
    lines = lines or f"Lines: the {limits.size} thresholds, {low} to {high}."
    chart = charts.histogram(similarities, same, "similarity", limits[: _SHOWN * 2].tolist())
    return f"{chart}\n<p>{keys} {lines}</p>"


def _errors(
    report: Report,
    kind: str,
    excess: NDArray[np.float64],
    similarities: NDArray[np.float64],
    wrong: NDArray[np.bool_],
) -> str:
    """The wrongly decided pairs that lie farthest beyond their threshold."""
    pairs = np.flatnonzero(wrong)
    worst = pairs[np.argsort(-excess[pairs], kind="stable")][:_SHOWN].tolist()
    figures = "\n".join(_pair(report, pair, similarities[pair]) for pair in worst)
    kinds = ("different", "same") if kind == "accepts" else ("same", "different")
    says = f"{pairs.size:,} {kinds[0]} pairs decided as {kinds[1]}"
    if len(worst) < pairs.size:
        says += f"; the {len(worst)} farthest beyond their threshold"
    body = f'<p>{says}.</p>\n<div class="pairs">\n{figures}\n</div>'
    return section(f"Worst false {kind}", body)


def _pair(report: Report, pair: int, similarity: float) -> str:
    if report.names is None:
        return f"<figure>{_caption(f'{similarity:.4f}', f'pair {pair}')}</figure>"
    names = report.names[pair]
    return f"<figure>{_crops(report, names)}{_caption(f'{similarity:.4f}', *names)}</figure>"


def _crops(report: Report, names: Sequence[str]) -> str:
    if report.crop is None:
        return ""
    return f"<div>{''.join(image(report.crop(name), name, 112) for name in names)}</div>"


def _caption(title: str, *names: str) -> str:
    lines = [f"<b>{title}</b>"] if title else []
    for name in names:
        folder, _, file = name.rpartition("/")
        short = file if folder and file.startswith(folder) else name  # Ann/Ann_0001.jpg
        lines.append(re.sub("([/_])", r"\1<wbr>", text(short)))
    return f"<figcaption>{'<br>'.join(lines)}</figcaption>"


def _no_face(report: Report) -> str:
    names = report.no_face
    if names is None:
        return ""
    if not names:
        return section("Pictures without a face", "<p>None: a face was found in every picture.</p>")
    figures = "\n".join(
        f"<figure>{_crops(report, [name])}{_caption('', name)}</figure>" for name in names[:_SHOWN]
    )
    listed = ", ".join(text(name) for name in names)
    body = (
        f'<p>In {len(names):,} pictures no face was found.</p>\n<div class="pairs">\n{figures}\n'
        f"</div>\n<details><summary>All their names</summary>{listed}</details>"
    )
    return section("Pictures without a face", body)
