"""From pictures to crops and embeddings: what is a crop already, what is cropped, in what order."""

import pathlib
import types

import cv2
import numpy as np
import pytest

from spherekeras.errors import DataError, ImageError, NoFaceError
from spherekeras.evaluation import crops as module
from spherekeras.evaluation.crops import Crops, check_mirror, embed, list_pictures

RANDOM = np.random.default_rng(6)


class Faces:
    """Stands in for the embedder: a dark photograph has no face; the crop is one grey value."""

    detector_name = "a lamp"

    def __init__(self, template: str = "sphereface_112x96") -> None:
        self.config = types.SimpleNamespace(template=template)

    def crop(self, source: np.ndarray, name: str) -> np.ndarray:
        if source.mean() < 20:
            raise NoFaceError(name)
        return np.full((112, 96, 3), source.mean(), np.uint8)

    def centre_crop(self, source: np.ndarray) -> np.ndarray:
        return np.full((112, 96, 3), 7, np.uint8)

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert crops.flags.c_contiguous and mirror == "sum" and not normalize
        return crops[:, 0, :2, 0].astype(np.float32)


def picture(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("template", "size", "columns"),
    [
        ("sphereface_112x96", (112, 96), slice(0, 96)),
        ("sphereface_112x96", (112, 112), slice(8, 104)),
        ("arcface_112x112", (112, 112), slice(0, 112)),
        ("dlib_150x150", (150, 150), slice(0, 150)),
        ("arcface_112x112", (112, 96), None),
        ("dlib_150x150", (112, 112), None),
        ("sphereface_112x96", (96, 112), None),
    ],
)
def test_a_picture_of_a_templates_size_is_a_crop(
    template: str, size: tuple[int, int], columns: slice | None
) -> None:
    given = picture(*size)
    found = Crops(Faces(template)).aligned(given)
    if columns is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, given[:, columns])


def test_files_of_all_kinds_are_counted_and_named(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "Ann" / "0"
    folder.mkdir(parents=True)
    narrow, wide = picture(112, 96), picture(112, 112)
    for name, pixels in {
        "narrow": narrow,
        "wide": wide,
        "other": wide,
        "bright": np.full((60, 60, 3), 90, np.uint8),
        "dark": np.zeros((60, 60, 3), np.uint8),
    }.items():
        cv2.imwrite(str(folder / f"{name}.png"), pixels[..., ::-1])
    crops = Crops(Faces())
    found = {path.stem: crops.file(path) for path in sorted(folder.iterdir())}
    np.testing.assert_array_equal(found["narrow"], narrow)
    np.testing.assert_array_equal(found["wide"], wide[:, 8:104])
    assert (found["bright"] == 90).all() and (found["dark"] == 7).all()
    assert crops.no_face == ["Ann/0/dark.png"]
    assert crops.how("none") == (
        "1 aligned crops as they are and columns 8 to 103 of 2 crops aligned to arcface_112x112 "
        "and 2 photographs, faces found by a lamp and aligned to the 96x112 template (width x "
        "height), the centre crop where there was none (1 pictures); none dropped; no mirror image"
    )
    (folder / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text.jpg is not a picture"):
        crops.file(folder / "text.jpg")


def test_embeddings_come_in_order_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    steps: list[tuple[int, int]] = []
    values = [5, 3, 9, 1, 7]
    rows = embed(
        Faces(),
        values,
        lambda value: np.full((4, 4, 3), value, np.uint8),
        "sum",
        lambda done, total: steps.append((done, total)),
    )
    assert rows.dtype == np.float32 and rows.tolist() == [[value, value] for value in values]
    assert steps == [(3, 5), (5, 5)]


def test_pictures_are_listed_by_depth(tmp_path: pathlib.Path) -> None:
    away = tmp_path / "away"
    tmp_path /= "pictures"
    for name in (
        "b/2.JPG", "b/.hidden.png", "a/1.png", "a/x/3.jpeg", "top.jpg", "a/notes.txt",
        "c/4.webp", ".@__thumb/1.jpg", "../away/x/y/5.tiff",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    (tmp_path / "d").symlink_to(away / "x")

    def names(depth: int | None) -> list[str]:
        found = list_pictures(tmp_path, depth, "pictures")
        return [path.relative_to(tmp_path).as_posix() for path in found]

    assert names(2) == ["a/1.png", "b/2.JPG", "c/4.webp"]
    assert names(3) == ["a/x/3.jpeg", "d/y/5.tiff"]
    assert names(None) == sorted([*names(2), *names(3), "top.jpg"])
    with pytest.raises(DataError, match="e holds no pictures. Expected `<person>/1.jpg` in it."):
        list_pictures(tmp_path / "e", 2, "`<person>/1.jpg`")


def test_an_unknown_mirror_is_refused() -> None:
    check_mirror("concat")
    with pytest.raises(DataError, match='"none", "sum" or "concat". Received: mirror=None.'):
        check_mirror(None)
