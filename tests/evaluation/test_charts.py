"""Charts as SVG: their points against naive loops, scikit-learn and scipy."""

import re

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from spherekeras.evaluation import charts, metrics
from spherekeras.evaluation.charts import Axis, Chart

LEFT, RIGHT, TOP, BOTTOM = 52, 428, 12, 236  # the frame of a chart, in pixels


def _scores(pairs: int = 500, apart: float = 0.5, decimals: int = 9) -> tuple:
    random = np.random.default_rng(1)
    same = random.random(pairs) < 0.4
    return np.round(apart * same + random.normal(0, 0.2, pairs), decimals), same


def _pixels(chart: object, kind: str = "curve") -> np.ndarray:
    points = re.search(f'class="{kind}" points="([^"]+)"', str(chart)).group(1)
    return np.array([[float(v) for v in point.split(",")] for point in points.split()])


def _distances(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """How far each of (n, 2) points lies from a line through (m, 2) points."""
    start, along = line[:-1], np.diff(line, axis=0)
    share = ((points[:, None] - start) * along).sum(-1) / (along**2).sum(-1)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


@pytest.mark.parametrize("decimals", [9, 1], ids=["all different", "many equal"])
def test_the_roc_is_the_naive_one(decimals: int) -> None:
    scores, same = _scores(decimals=decimals)
    floor = 1e-3  # 1 / (about 300 different pairs), down to a power of ten
    wanted = []
    for threshold in sorted(set(scores), reverse=True):
        far = np.mean([score >= threshold for score in scores[~same]])
        tar = np.mean([score >= threshold for score in scores[same]])
        across = (np.log10(max(far, floor)) - np.log10(floor)) / -np.log10(floor)
        wanted.append([LEFT + across * (RIGHT - LEFT), BOTTOM - tar * (BOTTOM - TOP), far])
    wanted = np.array(wanted)
    first = np.flatnonzero(wanted[:, 2] == 0)[-1] if (wanted[:, 2] == 0).any() else 0
    drawn = _pixels(charts.roc(scores, same))
    assert _distances(wanted[first:, :2], drawn).max() < 0.15
    assert all(np.abs(wanted[:, :2] - point).max(axis=1).min() < 0.051 for point in drawn[1:])
    assert (np.diff(drawn[:, 0]) >= 0).all() and (np.diff(drawn[:, 1]) <= 0).all()
    np.testing.assert_allclose(drawn[-1], [RIGHT, TOP])


def test_the_det_curve_is_that_of_scikit_learn() -> None:
    scores, same = _scores()
    chart = charts.det(scores, same)
    fpr, fnr, _ = sklearn.metrics.det_curve(same, scores)
    inside = (fpr > 0) & (fnr > 0) & (fpr <= 0.6) & (fnr <= 0.6)
    ends = [scipy.stats.norm.ppf([0.8 * rate[rate > 0].min(), 0.6]) for rate in (fpr, fnr)]
    shares = [
        (scipy.stats.norm.ppf(rate[inside]) - low) / (high - low)
        for rate, (low, high) in zip((fpr, fnr), ends, strict=True)
    ]
    wanted = np.stack(
        [LEFT + shares[0] * (RIGHT - LEFT), BOTTOM - shares[1] * (BOTTOM - TOP)], axis=1
    )
    assert inside.sum() > 50
    assert _distances(wanted, _pixels(chart)).max() < 0.15


def test_the_equal_error_rate_lies_where_the_det_curve_crosses_its_diagonal() -> None:
    scores, same = _scores()
    chart = charts.det(scores, same)
    rate = metrics.eer(scores, same)
    here = np.array([chart.place(rate, rate)])
    assert _distances(here, _pixels(chart)).max() < 0.6
    assert _distances(here, _pixels(chart, "chance")).max() < 0.6


def test_operating_points_are_marked_on_the_curves() -> None:
    scores, same = _scores()
    points = [metrics.operating_point(scores, same, far) for far in (0.1, 0.01, 0.001)]
    assert points[2].reason
    for chart in (charts.roc(scores, same, points), charts.det(scores, same, points)):
        dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', str(chart))
        assert len(dots) == 2
        assert _distances(np.array(dots, float), _pixels(chart)).max() < 0.15
        assert f"; TAR {points[0].tar:.2%} at FAR 0.1" in chart.name
        assert f"<title>threshold {points[1].threshold:.4f}; TAR" in str(chart)


def test_pairs_without_error_have_a_roc_and_no_det_curve() -> None:
    scores, same = [0.9, 0.8, 0.2, 0.1], [True, True, False, False]
    assert charts.det(scores, same) is None
    np.testing.assert_allclose(_pixels(charts.roc(scores, same)), [[LEFT, TOP], [RIGHT, TOP]])


def test_a_single_pair_of_a_kind_is_drawn() -> None:
    same = [True] * 9 + [False]
    for scores in (np.linspace(1, 0.1, 10), np.r_[np.linspace(1, 0.3, 8), 0.1, 0.2]):
        assert "nan" not in str(charts.roc(scores, same)) + str(charts.det(scores, same))


def test_a_chart_of_many_pairs_is_small_and_as_exact() -> None:
    scores, same = _scores(200_000)
    chart = charts.roc(scores, same)
    far, tar, _ = metrics.roc(scores, same)
    some = np.arange(np.flatnonzero(far == 0)[-1], far.size, 500)
    wanted = np.array([chart.place(far[k], tar[k]) for k in some])
    assert _distances(wanted, _pixels(chart)).max() < 0.15
    assert len(str(chart)) < 60_000 and len(str(charts.det(scores, same))) < 60_000


def test_thinning_leaves_a_line_as_it_was() -> None:
    chart = Chart(Axis("x", 0, 376), Axis("y", 0, 224), "pixels")
    x = np.array([0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 5.001, 7, 9, 8])
    y = np.array([0, 0, 0, 0, 5, 9, 2, 2, 2, 3, 3.001, 4, 4, 4])
    chart.line(x, y, "curve")
    wanted = [(0, 0), (3, 0), (3, 9), (3, 2), (4, 2), (5, 3), (7, 4), (9, 4), (8, 4)]
    assert _pixels(chart).tolist() == [[LEFT + a, BOTTOM - b] for a, b in wanted]


@pytest.mark.parametrize("decimals", [9, 1])
def test_the_histogram_holds_every_pair(decimals: int) -> None:
    scores, same = _scores(decimals=decimals)
    chart = charts.histogram(scores, same, "similarity", [0.25, 0.3])
    bars = re.findall(
        r'<rect class="(\w+)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"',
        str(chart),
    )
    unit = (BOTTOM - TOP) / chart.y.high
    for kind, truth in (("same", same), ("different", ~same)):
        mine = np.array([list(map(float, bar[1:])) for bar in bars if bar[0] == kind])
        assert mine[:, 2].sum() / unit == pytest.approx(100, abs=0.1 * len(mine))
        ends = (mine[[0, -1], 0] - LEFT) / (RIGHT - LEFT) * (chart.x.high - chart.x.low)
        step = (mine[0, 1] + 0.5) / (RIGHT - LEFT) * (chart.x.high - chart.x.low)
        extremes = scores[truth].min(), scores[truth].max()
        for end, value in zip(chart.x.low + ends, extremes, strict=True):
            assert end - 0.01 <= value <= end + step + 0.01
    lines = re.findall(r'class="limit" x1="([\d.]+)"', str(chart))
    wanted = [chart.place(threshold, 0)[0] for threshold in (0.25, 0.3)]
    assert list(map(float, lines)) == wanted


def test_equal_scores_have_a_histogram() -> None:
    chart = charts.histogram([1.0, 1.0], [True, False], "similarity")
    assert str(chart).count("<rect") == 2 and chart.x.low <= 1 < chart.x.high


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("", 0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis("", -0.45, 1), ["-0.25", "0", "0.25", "0.5", "0.75", "1"]),
        (Axis("", 0, 5000), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        (Axis("", 0.00027, 0.6, "deviate"), ["0.1", "1", "10", "20", "40", "60"]),
    ],
)
def test_ticks_are_round(axis: Axis, texts: list[str]) -> None:
    assert [text for _, text in axis.ticks()] == texts
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks())


def test_ticks_of_many_decades_skip_some() -> None:
    powers = [round(np.log10(value)) for value, _ in Axis("", 1e-9, 1, "log").ticks()]
    assert powers == [0, -2, -4, -6, -8]


def test_deviates_are_those_of_scipy() -> None:
    axis = Axis("", 0.001, 0.6, "deviate")
    rates = np.linspace(0.001, 0.6, 50)
    low, high = scipy.stats.norm.ppf([0.001, 0.6])
    wanted = (scipy.stats.norm.ppf(rates) - low) / (high - low)
    np.testing.assert_allclose(axis.share(rates), wanted, atol=1e-9)


def test_labels_are_escaped() -> None:
    chart = Chart(Axis("<x>", 0, 1), Axis('"y"', 0, 1), "<n> \"'")
    chart.dot(0.5, 0.5, "<d>")
    for raw in ("<x>", "<n>", "<d>", '"y"<'):
        assert raw not in str(chart)
