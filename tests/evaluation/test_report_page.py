"""The page of a verification result: what it shows, in what order, escaped, without a network."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import math
import pathlib
import re

import cv2
import numpy as np
import pytest

from spherekeras import cli
from spherekeras.data.drawn_faces import drawn_crops
from spherekeras.errors import DataError, NoFaceError
from spherekeras.evaluation import lfw, metrics
from spherekeras.evaluation.report_page import Number, Report, report_of, write_report

CROPS = drawn_crops(range(8), 3)[0]
EVIL = "<b onload=\"alert('&')\">/x_1.jpg"
NAMES = [f"P{k // 3}/P{k // 3}_{k % 3 + 1:04d}.jpg" for k in range(23)] + [EVIL]


def _report(**changes: object) -> Report:
    random = np.random.default_rng(0)
    same = np.arange(400) % 40 < 20
    names = [(NAMES[k % 24], NAMES[(5 * k + 1) % 24]) for k in range(400)]
    report = Report(
        title="A network on drawn faces",
        similarities=0.5 * same + random.normal(0, 0.2, 400),
        same=same,
        thresholds=np.repeat(0.25 + 0.05 * random.random(10), 40),
        numbers=[Number("accuracy", "91.25%", "95 %: 88.00% to 94.00%"), Number("AUC", "0.97")],
        protocol="400 pairs in ten folds.",
        environment={"keras": "3.15.1", "machine": "x86_64"},
        names=names,
        crop=lambda name: CROPS[NAMES.index(name)],
        no_face=[NAMES[3], EVIL],
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture
def page(tmp_path: pathlib.Path):
    def write(**changes: object) -> str:
        write_report(tmp_path / "report.html", _report(**changes))
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def _section(text: str, title: str) -> str:
    return re.search(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", text, re.S).group(1)


def _plain(fragment: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", fragment))


class _Elements(html.parser.HTMLParser):
    """Fails on a tag that is closed out of turn; keeps attributes that load or run something."""

    VOID = frozenset(("meta", "img", "line", "rect", "polyline", "br", "wbr"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[tuple[str, str | None]] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.active += [
            (name, value)
            for name, value in attributes
            if name in ("src", "href", "action", "style") or name.startswith("on")
        ]
        if tag == "img":
            self.pictures.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _elements(text: str) -> _Elements:
    parser = _Elements()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_needs_no_network_and_no_script(page) -> None:
    text = page()
    elements = _elements(text)
    assert {name for name, _ in elements.active} == {"src"}
    assert all(value.startswith("data:image/jpeg;base64,") for _, value in elements.active)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script", text)
    assert "default-src 'none'" in text and "script-src" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_the_same_report_gives_the_same_bytes(page) -> None:
    assert page() == page()


def test_text_is_escaped(page) -> None:
    evil = "<script>'\"&"
    text = page(
        title=evil,
        protocol=evil,
        environment={evil: evil},
        numbers=[Number(evil, evil, evil)],
    )
    assert evil not in text and EVIL not in text and "<script" not in text
    assert text.count("&lt;script&gt;&#x27;&quot;&amp;") == 2 + 1 + 2 + 3
    shown = _plain(_section(text, "Pictures without a face"))
    assert EVIL in shown


def test_numbers_with_notes_protocol_and_versions(page) -> None:
    text = page()
    header = text.split("<header>")[1].split("</header>")[0]
    assert "200 same pairs, 200 different pairs." in header
    assert re.findall("<dt>(.*?)</dt><dd><b>(.*?)</b>", header) == [
        ("accuracy", "91.25%"),
        ("AUC", "0.97"),
    ]
    assert "<dd>95 %: 88.00% to 94.00%</dd>" in header
    assert "400 pairs in ten folds." in _section(text, "Operating points")
    assert "x86_64" in _section(text, "Where these numbers come from")


def _worst(report: Report, same: bool) -> list[int]:
    """Wrong pairs of a kind, those farthest beyond their own threshold first, by a naive loop."""
    wrong = []
    for pair in range(400):
        beyond = report.thresholds[pair] - report.similarities[pair]
        if report.same[pair] == same and (beyond > 0) == same:
            wrong.append((-abs(beyond), pair))
    return [pair for _, pair in sorted(wrong)]


@pytest.mark.parametrize(("kind", "same"), [("accepts", False), ("rejects", True)])
def test_the_worst_errors_with_similarities_names_and_crops(page, kind: str, same: bool) -> None:
    report = _report()
    section = _section(page(), f"Worst false {kind}")
    wrong = _worst(report, same)
    assert len(wrong) > 12
    words = "same pairs decided as different" if same else "different pairs decided as same"
    assert f"{len(wrong)} {words}; the 12 farthest beyond their threshold." in section
    shown = re.findall("<b>(.*?)</b>", section)
    assert shown == [f"{report.similarities[pair]:.4f}" for pair in wrong[:12]]
    pictures = _elements(section).pictures
    names = [name for pair in wrong[:12] for name in report.names[pair]]
    assert [picture["alt"] for picture in pictures] == names
    for picture, name in zip(pictures, names, strict=True):
        data = np.frombuffer(base64.b64decode(picture["src"].split(",")[1]), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        differences = [np.abs(decoded.astype(int) - crop).mean() for crop in CROPS]
        assert int(np.argmin(differences)) == NAMES.index(name)


def test_a_folder_that_the_file_repeats_is_said_once(page) -> None:
    captions = _plain(
        _section(page(no_face=[NAMES[3], "P/1.jpg"], crop=None), "Pictures without a face")
    )
    short, listed = captions.split("All their names")
    assert short.split()[-2:] == ["P1_0001.jpg", "P/1.jpg"]
    assert listed == "P1/P1_0001.jpg, P/1.jpg\n"


def test_pictures_without_a_face(page) -> None:
    section = _section(page(), "Pictures without a face")
    assert [picture["alt"] for picture in _elements(section).pictures] == [NAMES[3], EVIL]
    many = _section(page(no_face=NAMES * 2), "Pictures without a face")
    assert len(_elements(many).pictures) == 12 and "In 48 pictures" in many
    assert many.split("<details>")[1].count(".jpg") == 48
    assert "None: a face was found in every picture." in page(no_face=[])
    assert "without a face" not in page(no_face=None)


def test_pairs_without_names_or_crops_are_shown_too(page) -> None:
    report = _report()
    text = page(names=None, no_face=None)
    assert "<img" not in text
    assert f"pair {_worst(report, True)[0]}<" in _section(text, "Worst false rejects")
    text = page(crop=None)
    assert "<img" not in text
    assert "P0_0001.jpg" in _plain(text)


def test_curves_and_table_carry_the_operating_points(page) -> None:
    report = _report(fars=(0.1, 0.01, 0.001))
    text = page()
    table = re.findall('<tr><th scope="row">(.*?)</tr>', _section(text, "Operating points"))
    rows = [re.split("(?:</t[hd]><td[^>]*>)|</td>", row)[:4] for row in table]
    for row, far in zip(rows[:2], (0.1, 0.01), strict=True):
        point = metrics.operating_point(report.similarities, report.same, far)
        assert row == [
            f"{far:g}",
            f"{100 * point.far:g}%",
            f"{point.tar:.2%}",
            f"{point.threshold:.4f}",
        ]
    assert rows[2][1] == "FAR 0.001 needs at least 1000 different pairs, there are 200"
    for title in ("ROC", "DET"):
        assert _section(text, title).count("<circle") == 2


def test_every_threshold_is_drawn(page) -> None:
    text = page()
    assert _section(text, "Similarities").count('class="limit"') == 10
    low, high = _report().thresholds.min(), _report().thresholds.max()
    assert f"Lines: the 10 thresholds, {low:.4f} to {high:.4f}." in text
    text = page(thresholds=0.3)
    assert text.count('class="limit"') == 1 and "Line: the threshold, 0.3000." in text


def test_pairs_without_an_error(page) -> None:
    same = _report().same
    text = page(similarities=np.where(same, 0.9, 0.1), thresholds=0.5)
    assert "no threshold makes errors of both kinds" in _section(text, "DET")
    assert "0 different pairs decided as same." in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": [0.1, 0.2]}, "one for each of the 400 pairs. Received: shape (2,)"),
        ({"names": [("a", "b")]}, "the names of 400 pairs. Received: 1."),
        ({"similarities": np.ones(3)}, "Received: shapes (3,) and (400,)"),
        ({"same": np.ones(400, bool)}, "Received: 400 same, 0 different."),
    ],
)
def test_errors_say_what_was_wanted(tmp_path: pathlib.Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError) as error:
        write_report(tmp_path / "report.html", _report(**changes))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


class DrawnEmbedder:
    """Stands in for the embedder: the picture is the crop, its mean colours are the embedding."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.metadata: dict[str, object] = {}

    def crop(self, source: bytes, name: str) -> np.ndarray:
        if name == "P2/P2_0002.jpg":
            raise NoFaceError(name)
        return cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def centre_crop(self, source: bytes) -> np.ndarray:
        return np.full((112, 96, 3), 77, np.uint8)

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        return crops.reshape(len(crops), 4, 28, 4, 24, 3).mean(axis=(2, 4)).reshape(len(crops), -1)


@pytest.fixture
def small_lfw(tmp_path: pathlib.Path) -> pathlib.Path:
    """Eight drawn people, three pictures each, and LFW's lists of them."""
    root = tmp_path / "lfw"
    for name, crop in zip([*NAMES[:23], "P7/P7_0003.jpg"], CROPS, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(cv2.imencode(".png", crop[..., ::-1])[1].tobytes())
    folds = []
    for fold in range(4):
        one, other = f"P{2 * fold}", f"P{2 * fold + 1}"
        folds += [
            f"{one}\t1\t2",
            f"{other}\t2\t3",
            f"{one}\t3\t{other}\t1",
            f"{one}\t2\t{other}\t2",
        ]
    (root / "pairs.txt").write_text("\n".join(["4\t2", *folds]) + "\n")
    (root / "pairsDevTrain.txt").write_text("\n".join(["2", *folds[:4]]) + "\n")
    (root / "pairsDevTest.txt").write_text("\n".join(["2", *folds[4:8]]) + "\n")
    return root


@pytest.mark.parametrize("view", [1, 2])
def test_lfw_names_its_pairs_and_gives_their_crops(small_lfw: pathlib.Path, view: int) -> None:
    faces = DrawnEmbedder(small_lfw)
    result = lfw(faces, small_lfw, view=view)
    listed = (small_lfw / ("pairs.txt" if view == 2 else "pairsDevTest.txt")).read_text()
    assert len(result.names) == result.pairs == len(listed.splitlines()) - 1
    for pair, line in zip(result.names, listed.splitlines()[1:], strict=True):
        fields = line.split("\t")
        wanted = [(fields[0], fields[1]), (fields[-2] if fields[3:] else fields[0], fields[-1])]
        assert pair == tuple(f"{name}/{name}_000{number}.jpg" for name, number in wanted)
    right = (result.similarities >= result.pair_thresholds) == result.same
    assert right.mean() == pytest.approx(result.accuracy)
    np.testing.assert_array_equal(result.crop(NAMES[4]), CROPS[4])
    assert (result.crop("P2/P2_0002.jpg") == 77).all()


def test_a_result_of_lfw_as_a_report(small_lfw: pathlib.Path) -> None:
    result = lfw(DrawnEmbedder(small_lfw), small_lfw, view=2)
    report = report_of(result, "a title", {})
    numbers = {number.name: number for number in report.numbers}
    low, high = result.intervals["accuracy"]
    assert numbers["accuracy"].value == f"{result.accuracy:.2%}"
    assert numbers["accuracy"].note == (
        f"± {result.std:.2%} over the folds; 95 %: {low:.2%} to {high:.2%}"
    )
    assert numbers["EER"].value == f"{result.eer:.2%}"
    for name, key, form in (("AUC", "auc", ".5f"), ("EER", "eer", ".2%")):
        low, high = result.intervals[key]
        between = "" if math.isnan(low) else f"95 %: {low:{form}} to {high:{form}}"
        assert numbers[name].note == between
    assert numbers["TAR at FAR 0.001"] == Number(
        "TAR at FAR 0.001", "–", "FAR 0.001 needs at least 1000 different pairs, there are 8"
    )
    assert report.no_face == ["P2/P2_0002.jpg"] and report.protocol == result.protocol
    assert (report.names, report.crop) == (result.names, result.crop)
    # All pairs of view 1 are linked, and there are no folds: nothing is known to note.
    view_1 = report_of(lfw(DrawnEmbedder(small_lfw), small_lfw, view=1), "a title", {})
    assert view_1.numbers[0].note == ""


def test_evaluate_writes_the_page(
    small_lfw: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = tmp_path / "tiny"
    preset.mkdir()
    (preset / "model.weights.h5").write_bytes(b"weights")
    monkeypatch.setattr(cli, "_load", lambda options, lazy: DrawnEmbedder(preset))
    pages = []
    for name in ("one.html", "two.html"):
        arguments = ["evaluate", "tiny", "--data", str(small_lfw), "--report", str(tmp_path / name)]
        assert cli.main(arguments) == 0
        pages.append((tmp_path / name).read_bytes())
    assert "LFW view 2: 16 pairs; in brackets" in capsys.readouterr().out
    one = ["evaluate", "tiny", "--data", str(small_lfw), "--protocol", "lfw-view1"]
    assert cli.main(one) == 0 and "LFW view 1: 4 pairs" in capsys.readouterr().out
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert "<h1>tiny on LFW view 2</h1>" in text and str(tmp_path) not in text
    versions = _plain(_section(text, "Where these numbers come from"))
    weights = hashlib.sha256(b"weights").hexdigest()[:16]
    for word in ("spherekeras", "keras", "backend", "numpy", "python", "machine", weights):
        assert word in versions
    assert "P2_0002.jpg" in _plain(_section(text, "Pictures without a face"))


def test_a_report_that_cannot_be_written_is_told_before_the_work(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(options: object, lazy: bool) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(cli, "_load", load)
    path = tmp_path / "none" / "report.html"
    assert cli.main(["evaluate", "tiny", "--data", "lfw", "--report", str(path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"spherekeras evaluate: {path} cannot be wr")
    assert "written: its folder does not exist. Name a file in a" in said
