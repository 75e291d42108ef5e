import pathlib
import pickle
import tracemalloc
import types
from typing import Any

import cv2
import numpy as np
import pytest

from spherekeras.data import alignment
from spherekeras.errors import DataError, ImageError
from spherekeras.evaluation import crops as shared
from spherekeras.evaluation import kfold_accuracy
from spherekeras.evaluation.bin_sets import bin_set, read_bin_set

RANDOM = np.random.default_rng(8)
PAIRS = 24
SAME = [bool(place % 3) for place in range(PAIRS)]


def crops() -> np.ndarray:
    """Coarse random pictures, two of a pair alike where it shows one person."""
    coarse = RANDOM.integers(0, 256, (2 * PAIRS, 7, 7, 3))
    for place, same in enumerate(SAME):
        if same:
            noise = RANDOM.integers(-190, 191, (7, 7, 3))
            coarse[2 * place + 1] = np.clip(coarse[2 * place] + noise, 0, 255)
    return coarse.astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)


CROPS = crops()
PICTURES = [cv2.imencode(".png", crop[..., ::-1])[1].tobytes() for crop in CROPS]


class PixelFaces:
    """Stands in for the embedder: the embedding is a fixed projection of the pixels."""

    def __init__(self, template: str = "arcface_112x112") -> None:
        self.config = types.SimpleNamespace(template=template)
        self.matrix = np.random.default_rng(4).normal(size=(49, 12)).astype(np.float32)
        self.seen: list[np.ndarray] = []

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert crops.dtype == np.uint8 and crops.flags.c_contiguous and not normalize
        self.seen.append(crops)
        sides = [self.embedding(crops), self.embedding(crops[:, :, ::-1])]
        return {
            "none": sides[0],
            "sum": sides[0] + sides[1],
            "concat": np.concatenate(sides, axis=1),
        }[mirror]

    def embedding(self, crops: np.ndarray) -> np.ndarray:
        columns = np.linspace(0, crops.shape[2] - 1, 7).astype(int)
        return crops[:, 8::16, columns, 1].reshape(len(crops), 49).astype(np.float32) @ self.matrix


def write(folder: pathlib.Path, content: Any, protocol: int = 4) -> pathlib.Path:
    path = folder / "toy_fp.bin"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("mirror", ["none", "sum", "concat"])
@pytest.mark.parametrize("subtract_mean", [False, True])
def test_it_is_the_k_fold_of_the_crops(
    tmp_path: pathlib.Path, mirror: str, subtract_mean: bool
) -> None:
    faces = PixelFaces()
    path = write(tmp_path, (PICTURES, SAME))
    result = bin_set(faces, path, mirror=mirror, subtract_mean=subtract_mean)
    np.testing.assert_array_equal(np.concatenate(faces.seen), CROPS)
    embeddings = PixelFaces().embed_crops(CROPS, mirror, False)
    # 24 pairs in ten folds: four of three, then six of two.
    folds = np.repeat(np.arange(10), [3, 3, 3, 3, 2, 2, 2, 2, 2, 2])
    wanted = kfold_accuracy(embeddings[::2], embeddings[1::2], SAME, folds, subtract_mean)
    np.testing.assert_array_equal(result.similarities, wanted.similarities)
    np.testing.assert_array_equal(result.folds, wanted.accuracies)
    assert (result.accuracy, result.std) == (wanted.accuracy, wanted.std)
    assert (result.name, result.pairs, result.pictures) == ("toy_fp", PAIRS, 2 * PAIRS)
    assert 0.6 < result.accuracy < 1
    assert result.names[5] == ("crop 10", "crop 11") and result.no_face is None
    np.testing.assert_array_equal(result.crop("crop 11"), CROPS[11])


def test_the_default_is_insightfaces_protocol_and_says_so(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, (PICTURES, SAME))
    result = bin_set(PixelFaces(), path)
    embeddings = PixelFaces().embed_crops(CROPS, "sum", False).astype(np.float64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(
        result.similarities, 1 - ((unit[::2] - unit[1::2]) ** 2).sum(axis=1) / 2, atol=1e-12
    )
    assert result.protocol.startswith(
        "toy_fp, 24 pairs (16 same) in 10 folds, consecutive pairs of toy_fp.bin, 48 aligned crops "
        "as they are; none dropped; the embeddings of a crop and of its mirror image are added; no "
        "mean subtracted, L2 normalisation, cosine; the most accurate threshold"
    )
    named = bin_set(PixelFaces(), path, name="CFP-FP", mirror="none", subtract_mean=True).protocol
    assert named.startswith("CFP-FP, 24 pairs")
    assert "; no mirror image; mean embedding of the other folds' pairs subtracted" in named


def test_a_narrow_template_gets_the_inner_columns(tmp_path: pathlib.Path) -> None:
    faces = PixelFaces("sphereface_112x96")
    result = bin_set(faces, write(tmp_path, (PICTURES, SAME)))
    np.testing.assert_array_equal(np.concatenate(faces.seen), CROPS[:, :, 8:104])
    assert ", columns 8 to 103 of 48 crops aligned to arcface_112x112; none" in result.protocol
    picture = RANDOM.integers(0, 256, (250, 250, 3), np.uint8)
    points = np.array([[105, 112], [145, 110], [126, 135], [110, 155], [140, 157]], np.float64)
    wide = alignment.align(picture, points, "arcface_112x112")
    narrow = alignment.align(picture, points, "sphereface_112x96")
    inner = wide[:, 8:104]
    np.testing.assert_allclose(inner.astype(int), narrow.astype(int), atol=1)  # of rounding


def test_batches_change_nothing_and_report_progress(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, (PICTURES, SAME))
    whole = bin_set(PixelFaces(), path)
    monkeypatch.setattr(shared, "_BATCH", 20)
    steps: list[tuple[int, int]] = []
    parts = bin_set(PixelFaces(), path, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(20, 48), (40, 48), (48, 48)]
    np.testing.assert_allclose(parts.similarities, whole.similarities, atol=1e-6)


ENTRIES: dict[str, Any] = {
    "bytes": PICTURES,
    "arrays": [np.frombuffer(picture, np.uint8) for picture in PICTURES],
    "tall arrays": [np.frombuffer(picture, np.uint8)[:, None] for picture in PICTURES],
    "both": [np.frombuffer(p, np.uint8) if i % 2 else p for i, p in enumerate(PICTURES)],
    "tuple": tuple(PICTURES),
}
FLAGS: dict[str, Any] = {
    "list": SAME,
    "tuple": tuple(SAME),
    "numbers": [int(flag) for flag in SAME],
    "array": np.array(SAME),
    "array of numbers": np.array(SAME, np.int64),
    "NumPy's": [np.bool_(flag) for flag in SAME],
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("flags", FLAGS)
def test_all_that_tools_have_written_is_read_alike(
    tmp_path: pathlib.Path, entries: str, flags: str, protocol: int
) -> None:
    content = (ENTRIES[entries], FLAGS[flags])
    found = read_bin_set(write(tmp_path, content if flags == "list" else list(content), protocol))
    assert found.pictures == PICTURES
    assert found.same.dtype == np.bool_ and found.same.tolist() == SAME


def test_one_array_for_many_crops_is_copied_once(tmp_path: pathlib.Path) -> None:
    crop = np.frombuffer(bytes(200_000), np.uint8)
    path = write(tmp_path, ([crop] * 600, [True] * 300))
    tracemalloc.start()
    try:
        pictures, _ = read_bin_set(path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pictures) == 600 and most < 4_000_000


def test_jpegs_are_read_as_rgb(tmp_path: pathlib.Path) -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 200
    encoded = cv2.imencode(".jpg", red[..., ::-1])[1].tobytes()
    faces = PixelFaces()
    with pytest.raises(DataError, match="length 0|same, "):  # all alike: nothing to measure
        bin_set(faces, write(tmp_path, ([encoded] * 20, [True] * 10)))
    assert np.abs(faces.seen[0][0].astype(int) - red).max() <= 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([b"a", b"b"], "toy_fp.bin does not hold two crops a pair.*Received: 0 crops, 0 flags"),
        (
            b"a",
            "toy_fp.bin is no verification set. Expected a pickle of .* Received: bytes. Use a ",
        ),
        (None, "no verification set.*Received: NoneType"),
        (([b"a", b"b"], [True], 1), "no verification set.*Received: tuple"),
        (([b"a", b"b", b"c"], [True]), "Received: 3 crops, 1 flags. Get the file from its source"),
        (([], []), "for 1 to 100,000 pairs. Received: 0 crops, 0 flags"),
        (([b"a", b"b"], [2]), "toy_fp.bin has flags other than true/false and 1/0. Get the file"),
        (([b"a", b"b"], [None]), "has flags other than"),
        (([b"a", b"b"], [b"\x01"]), "has flags other than"),
        (([b"a", "b"], [True]), "Expected crop 1 of toy_fp.bin as the bytes .*Received: str. Get"),
        (([b"a", b""], [True]), r"Expected crop 1 .* up to 1,000,000. Received: 0 bytes"),
        (([b"a" * 1_000_001, b"b"], [True]), "Expected crop 0 .* Received: 1,000,001 bytes"),
        (([b"a", [b"b"]], [True]), "Received: list"),
        (([b"a", np.zeros((2, 2), np.uint8)], [True]), r"Received: uint8, shape \(2, 2\)"),
        (([b"a", np.zeros(4, np.int64)], [True]), r"Received: int64, shape \(4,\)"),
        ((np.zeros((2, 9), np.uint8), [True]), "Received: 0 crops, 1 flags"),
        (([b"a", np.array([b"a"], object)], [True]), "toy_fp.bin holds an array of the type 'O8'"),
        (([b"a", print], [True]), "toy_fp.bin asks for builtins.print. Expected tuples.*not|run"),
    ],
)
def test_other_content_is_refused(tmp_path: pathlib.Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message):
        read_bin_set(path)
    with pytest.raises(DataError, match=message):
        bin_set(PixelFaces(), path)


def test_crops_that_are_none_are_named(tmp_path: pathlib.Path) -> None:
    damaged = [*PICTURES[:5], PICTURES[5][:200], *PICTURES[6:]]
    with pytest.raises(ImageError, match="crop 5 of toy_fp.bin is damaged and cannot be decoded"):
        bin_set(PixelFaces(), write(tmp_path, (damaged, SAME)))
    small = cv2.imencode(".png", CROPS[0][:, 8:104])[1].tobytes()
    message = (
        r"Expected crop 7 of toy_fp.bin as a crop aligned to arcface_112x112 .* Received: 96x112 "
        r"\(width x height\). Use a .bin file of that template."
    )
    with pytest.raises(DataError, match=message):
        bin_set(PixelFaces(), write(tmp_path, ([*PICTURES[:7], small, *PICTURES[8:]], SAME)))


def test_unknown_options_and_few_pairs_are_refused(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, (PICTURES, SAME))
    with pytest.raises(DataError, match=r'"none", "sum" or "concat". Received: mirror=\'flip\'.'):
        bin_set(PixelFaces(), path, mirror="flip")
    with pytest.raises(DataError, match="aligned to dlib_150x150 .*Received: 112x112"):
        bin_set(PixelFaces("dlib_150x150"), path)
    with pytest.raises(DataError, match="Expected at least 10 pairs for 10 folds. Received: 9"):
        bin_set(PixelFaces(), write(tmp_path, (PICTURES[:18], SAME[:9])))


def test_flipped_bits_in_a_set_give_pictures_or_an_error(tmp_path: pathlib.Path) -> None:
    content = pickle.dumps((ENTRIES["both"][:6], SAME[:3]), 4)
    random = np.random.default_rng(3)
    path = tmp_path / "toy_fp.bin"
    read = 0
    for _ in range(200):
        # Half of the flips hit the pickle's own bytes, not the pictures within.
        near = random.integers(0, 2)
        damaged = bytearray(content)
        place = random.integers(0, 400 if near else 8 * len(content))
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            found = read_bin_set(path)
        except DataError:
            continue
        read += 1
        assert len(found.pictures) == 2 * found.same.size
        assert all(type(picture) is bytes for picture in found.pictures)
    assert 50 < read < 200
