"""A folder, zip or list of photographs to a folder of aligned crops, resumable."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from spherekeras.data import alignment, detection, images
from spherekeras.errors import DataError, ImageError, SphereKerasError
from spherekeras.files import atomic_path

MANIFEST = "manifest.jsonl"
JPEG_QUALITY = 95

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_MAX_BYTES = 500_000_000
_NO_FACE = "no face found"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture without a crop: its name in the source, and why."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class AlignReport:
    """What `align_folder` did.

    Attributes:
        out: the folder of the crops and of `manifest.jsonl`.
        aligned: pictures aligned in this run.
        already_done: pictures that an earlier run had aligned with the same settings.
        several_faces: pictures, of both, in which `rule` had to choose among faces.
        failures: pictures without a crop.
    """

    out: pathlib.Path
    aligned: int
    already_done: int
    several_faces: int
    failures: tuple[Failure, ...]

    def __str__(self) -> str:
        done = self.aligned + self.already_done
        no_face = sum(failure.reason == _NO_FACE for failure in self.failures)
        return (
            f"{done} of {done + len(self.failures)} pictures have a crop in {self.out} "
            f"({self.aligned} new); no face in {no_face}, {len(self.failures) - no_face} "
            f"unreadable, several faces in {self.several_faces}."
        )


@dataclasses.dataclass(frozen=True)
class _Picture:
    source: str  # its name, relative, with forward slashes
    size: int  # bytes
    read: Callable[[], np.ndarray]


def align_folder(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    template: str = "sphereface_112x96",
    detector: str | detection.Detector = "auto",
    rule: str = "central-largest",
) -> AlignReport:
    """Aligns all photographs of a folder, a zip or a list.

    The crop of `a/b.png` is `out/a/b.jpg` (JPEG, quality 95); where two pictures would share
    that name (`b.png` and `b.jpg`), theirs are `b.png.jpg` and `b.jpg.jpg`. A picture that cannot
    be read or shows no face is listed, and the work goes on.

    `out/manifest.jsonl` has a line a picture, sorted: source, its bytes, template, detector,
    rule; then crop, landmarks (pixels of the picture), score and the number of faces found, or
    failure. Run again, it skips what the manifest says is done with the same settings, tries
    the failures anew, and ends with the same bytes as one uninterrupted run.

    Args:
        source: a folder (searched with its subfolders), a .zip, or paths of pictures (named
            relative to their common folder).
        out: the folder to write to.
        template: a name in `alignment.TEMPLATES`.
        detector: a name for `detection.load_detector`, or a detector.
        rule: which of several faces is meant, see `detection.choose_face`.

    Returns:
        Counts and failures; `print(report)` says them in one sentence.

    Raises:
        DataError: no pictures, a damaged zip, an unknown template, detector or rule, or a crop
            that would overwrite a photograph.
    """
    alignment.find_template(template)
    detection.check_rule(rule)
    out = pathlib.Path(out)
    with contextlib.ExitStack() as stack:
        pictures, refused = _list_pictures(source, out, stack)
        crops = _name_crops([picture.source for picture in pictures])
        finder = detection.load_detector(detector) if isinstance(detector, str) else detector
        settings = {"template": template, "detector": finder.name, "rule": rule}
        lines = _read_manifest(out / MANIFEST)

        def is_done(picture: _Picture) -> bool:
            wanted = {"bytes": picture.size, "crop": crops[picture.source], **settings}
            line = lines.get(picture.source, {})
            return wanted.items() <= line.items() and (out / line["crop"]).is_file()

        def work(picture: _Picture) -> dict[str, Any]:
            return _align_one(picture, crops[picture.source], out, finder, settings)

        waiting = [picture for picture in pictures if not is_done(picture)]
        out.mkdir(parents=True, exist_ok=True)
        with (
            (out / MANIFEST).open("a", encoding="utf-8") as manifest,
            _progress(len(waiting)) as tick,
        ):
            manifest.write("\n")  # ends a line that an interruption cut
            for line in _in_order(work, waiting, finder.thread_safe):
                lines[line["source"]] = line
                manifest.write(json.dumps(line) + "\n")
                manifest.flush()
                tick()
    for failure in refused:
        lines[failure.source] = {"source": failure.source, **settings, "failure": failure.reason}
    names = sorted({*crops, *(failure.source for failure in refused)})
    _write_manifest(out / MANIFEST, lines, names)
    failures = tuple(
        Failure(name, lines[name]["failure"]) for name in names if "failure" in lines[name]
    )
    return AlignReport(
        out=out,
        aligned=sum("crop" in lines[picture.source] for picture in waiting),
        already_done=len(pictures) - len(waiting),
        several_faces=sum(lines[name].get("faces", 0) > 1 for name in names),
        failures=failures,
    )


def _align_one(
    picture: _Picture,
    crop: str,
    out: pathlib.Path,
    finder: detection.Detector,
    settings: Mapping[str, str],
) -> dict[str, Any]:
    """Writes one crop and returns its line of the manifest."""
    import cv2

    line: dict[str, Any] = {"source": picture.source, "bytes": picture.size, **settings}
    try:
        image = picture.read()
        faces = finder.detect(image)
        if not faces:
            return {**line, "failure": _NO_FACE}
        face = detection.choose_face(faces, image.shape, settings["rule"])
        # Rounded first, so that the line gives the very crop.
        landmarks = face.landmarks.round(3)
        pixels = alignment.align(image, landmarks, settings["template"])
    except SphereKerasError as error:
        return {**line, "failure": str(error)}
    encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )[1]
    with atomic_path(out / crop) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return {
        **line,
        "crop": crop,
        "landmarks": landmarks.tolist(),
        "score": round(face.score, 4),
        "faces": len(faces),
    }


def _list_pictures(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: pathlib.Path,
    stack: contextlib.ExitStack,
) -> tuple[list[_Picture], list[Failure]]:
    """Returns the pictures sorted by name, and the members of a zip that are refused."""
    refused: list[Failure] = []
    if not isinstance(source, str | os.PathLike):
        where = "the list"
        files = sorted({pathlib.Path(path).absolute() for path in source})
        root = os.path.commonpath([file.parent for file in files]) if files else ""
        pictures = {file.relative_to(root).as_posix(): _of_file(file, root) for file in files}
        _refuse_overwriting(files, pictures, out)
    elif (path := pathlib.Path(source)).is_dir():
        where = str(path)
        target = out.absolute()
        files = [
            file
            for file in path.absolute().rglob("*")
            if _is_picture(file.relative_to(path.absolute()))
            and (target == path.absolute() or target not in file.parents)
        ]
        pictures = {}
        _refuse_overwriting(files, pictures, out)
