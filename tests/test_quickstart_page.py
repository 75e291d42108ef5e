"""The quickstart's page: self-contained, escaped, and its charts show the numbers given."""

import base64
import dataclasses
import html.parser
import json
import re

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from spherekeras.errors import DataError
from spherekeras.quickstart_page import QuickstartResults, write_page

EXPORT = {
    "format": "ONNX",
    "size_mb": 4.6,
    "max_difference": 2e-7,
    "min_cosine": 0.9999994,
    "verdict": "pass",
}


def _results(**changes):
    rng = np.random.default_rng(0)
    same = np.arange(400) < 150
    similarities = np.cos(np.radians(np.where(same, 45, 85) + rng.normal(0, 14, 400)))
    ramp = np.linspace(0, 255, 40 * 30).reshape(40, 30, 1).astype(np.uint8)
    results = QuickstartResults(
        history={"loss": [5.0, 2.0, 0.5], "lambda": [1000.0, 100.0, 5.0]},
        similarities=similarities,
        same=same,
        accuracy=0.9273,
        auc=float(roc_auc_score(same, similarities)),
        sphere_points=rng.normal(size=(24, 3)) * 7,
        sphere_labels=np.repeat([7, 3, 9], 8),
        pictures=[np.concatenate([ramp, 255 - ramp, ramp // 2], 2)],
        crops=[np.full((112, 96, 3), (200, 30, 90), np.uint8)],
        exports=[EXPORT, EXPORT | {"format": "int8", "verdict": "min cosine below 0.998"}],
        environment={"keras": "3.15.1", "command": "spherekeras quickstart"},
        cards=[{"small": {"backbone": "SphereFaceNet 4"}}],
    )
    return dataclasses.replace(results, **changes)


@pytest.fixture
def page(tmp_path):
    def write(**changes):
        write_page(tmp_path / "page.html", _results(**changes))
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return write


def _section(text, title):
    return re.search(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", text, re.S).group(1)


class _Balance(html.parser.HTMLParser):
    """Fails on a tag that is never closed, or closed out of turn."""

    VOID = frozenset(("meta", "img", "line", "rect", "polyline"))

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attributes):
        self.references += [v for name, v in attributes if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.references += [v for name, v in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network(page):
    text = page()
    parser = _Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert parser.references and all(r.startswith("data:image/") for r in parser.references)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text


def test_same_results_same_bytes(page):
    assert page() == page()


def test_the_headline_says_accuracy_auc_and_pairs(page):
    results = _results()
    text = re.sub(r"<[^>]*>", "", page().split("<header>")[1].split("</header>")[0])
    assert "92.7%" in text and f"AUC {results.auc:.4f}" in text
    assert "150 pairs of one identity, 250 pairs of two" in text


def test_text_is_escaped(page):
    evil = "<script>alert('&\")</script>"
    text = page(
        environment={evil: evil},
        history={evil: [1.0, 2.0]},
        cards=[{evil: {evil: evil}}],
        exports=[EXPORT | {"format": evil, "verdict": evil}],
    )
    assert evil not in text and "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(&#x27;&amp;&quot;)&lt;/script&gt;") == 2 + 3 + 3 + 2


def test_pictures_come_back_from_the_page(page):
    results = _results()
    codes = re.findall(r"data:image/jpeg;base64,([^\"]+)", page())
    assert len(codes) == 2
    for code, expected in zip(codes, [results.pictures[0], results.crops[0]], strict=True):
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(decoded[..., ::-1].astype(int) - expected).mean() < 8


def test_the_roc_is_the_naive_one(page):
    results = _results()
    points = re.search(r'class="curve" points="([^"]+)"', page()).group(1).split()
    pixels = np.array([[float(v) for v in point.split(",")] for point in points])
    far = 10 ** (-3 + 3 * (pixels[:, 0] - 52) / (440 - 52 - 12))
    tar = (280 - 44 - pixels[:, 1]) / (280 - 44 - 12)
    positives, negatives = results.similarities[results.same], results.similarities[~results.same]
    for wanted in (0.003, 0.01, 0.05, 0.2, 0.7):
        rates = [
            np.mean(positives >= t)
            for t in results.similarities
            if np.mean(negatives >= t) <= wanted
        ]
        drawn = tar[far <= wanted * 1.005].max()
        assert drawn == pytest.approx(max(rates), abs=0.01)
    assert (np.diff(tar) > -0.005).all() and (np.diff(far) >= 0).all()
    assert far[-1] == pytest.approx(1) and tar[-1] == pytest.approx(1)


def test_scores_without_overlap_reach_every_true_pair_at_once(page):
    same = np.array([True] * 5 + [False] * 20)
    text = page(similarities=np.where(same, 0.9, 0.1), same=same, auc=1.0)
    assert "TAR 100.0% at FAR 0.1" in text


def test_histograms_hold_every_pair(page):
    results = _results()
    section = _section(page(), "Angles between embeddings")
    ticks = re.findall(r'text-anchor="end">([\d.]+)</text>', section)
    rows = re.findall(r'y2="([\d.]+)"/><text x="45"', section)
    unit = (float(rows[0]) - float(rows[-1])) / (float(ticks[-1]) - float(ticks[0]))
    for kind in ("same", "different"):
        heights = re.findall(rf'<rect class="{kind}"[^>]*height="([\d.]+)"', section)
        assert sum(map(float, heights)) / unit == pytest.approx(100, abs=1.5)
        pick = results.same if kind == "same" else ~results.same
        mean = np.degrees(np.arccos(results.similarities[pick])).mean()
        assert f"{kind} identity, mean {mean:.1f}°" in section


def test_the_sphere_holds_unit_points_and_consecutive_labels(page):
    results = _results()
    data = json.loads(re.search(r'id="points">([^<]+)</script>', page()).group(1))
    points = np.array(data)[:, :3]
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=2e-3)
    expected = results.sphere_points / np.linalg.norm(results.sphere_points, axis=1)[:, None]
    np.testing.assert_allclose(points, expected, atol=6e-4)
    assert [row[3] for row in data] == [1] * 8 + [0] * 8 + [2] * 8


def test_training_exports_cards_and_environment(page):
    text = page()
    assert "First 1000, last 5." in _section(text, "Training: lambda")
    exports = _section(text, "Exports and their parity")
    assert '<td class="good">pass</td>' in exports and "2.0e-07" in exports
    assert '<td class="bad">min cosine below 0.998</td>' in exports
    assert "SphereFaceNet 4" in _section(text, "small")
    assert "spherekeras quickstart" in _section(text, "Where these numbers come from")


def test_empty_parts_are_left_out(page):
    text = page(history={}, pictures=[], crops=[], exports=[], environment={}, cards=[])
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert len(titles) == 3 and "<table" not in text and "<img" not in text


def test_a_flat_series_and_a_single_angle_are_drawn(page):
    same = np.array([True, False])
    text = page(history={"loss": [0.0, 0.0]}, similarities=np.array([1.0, 1.0]), same=same)
    assert "nan" not in text.lower().split("<script>")[0] and "Training: loss" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"same": np.ones(400, int)}, "float and bool. Received: (400,) float64 and (400,) int64."),
        ({"same": np.ones(400, bool)}, "Received: 400 of the same and 0 of different identities."),
        ({"sphere_points": np.ones((24, 2))}, "Received: (24, 2) and (24,)."),
        ({"crops": []}, "Received: 1 and 0. Pass each picture's own crop."),
        ({"history": {"loss": [1.0, np.nan]}}, "`history['loss']` expects finite numbers."),
        ({"pictures": [np.ones((4, 4, 3))]}, "Received: shape=(4, 4, 3), dtype=float64."),
        ({"exports": [{"format": "ONNX"}]}, "Received: ['format']. Add verdict, size_mb,"),
    ],
)
def test_errors_say_what_was_wanted(tmp_path, changes, message):
    with pytest.raises(DataError) as error:
        write_page(tmp_path / "page.html", _results(**changes))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())
