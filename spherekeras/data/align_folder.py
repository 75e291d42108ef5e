"""A folder, zip or list of photographs to a folder of aligned crops, resumable."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
import zipfile
import zlib
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
    name: str  # relative, with forward slashes
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
        pictures, refused = _list_pictures(source, out.resolve(), stack)
        crops = _name_crops([picture.name for picture in pictures])
        finder = detection.load_detector(detector) if isinstance(detector, str) else detector
        settings = {"template": template, "detector": finder.name, "rule": rule}
        lines = _read_manifest(out / MANIFEST)

        def is_done(picture: _Picture) -> bool:
            wanted = {"bytes": picture.size, "crop": crops[picture.name], **settings}
            line = lines.get(picture.name, {})
            return wanted.items() <= line.items() and (out / line["crop"]).is_file()

        def work(picture: _Picture) -> dict[str, Any]:
            return _align_one(picture, crops[picture.name], out, finder, settings)

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
    _write_manifest(out, lines, set(names))
    return AlignReport(
        out=out,
        aligned=sum("crop" in lines[picture.name] for picture in waiting),
        already_done=len(pictures) - len(waiting),
        several_faces=sum(lines[name].get("faces", 0) > 1 for name in names),
        failures=tuple(
            Failure(name, lines[name]["failure"]) for name in names if "failure" in lines[name]
        ),
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

    line: dict[str, Any] = {"source": picture.name, "bytes": picture.size, **settings}
    try:
        image = picture.read()
        faces = finder.detect(image)
        if not faces:
            return {**line, "failure": _NO_FACE}
        face = detection.choose_face(faces, image.shape, settings["rule"])
        landmarks = face.landmarks.round(3)  # before use: the manifest's numbers give the crop
        pixels = alignment.align(image, landmarks, settings["template"])
    except (SphereKerasError, cv2.error) as error:
        return {**line, "failure": str(error)}
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    with atomic_path(out / crop) as temporary:
        temporary.write_bytes(encoded.tobytes())
    found = {"score": round(face.score, 4), "faces": len(faces)}
    return {**line, "crop": crop, "landmarks": landmarks.tolist(), **found}


def _list_pictures(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: pathlib.Path,
    stack: contextlib.ExitStack,
) -> tuple[list[_Picture], list[Failure]]:
    """Returns the pictures sorted by name, and the members of a zip that are refused."""
    pictures: list[_Picture] = []
    refused: list[Failure] = []
    if not isinstance(source, str | os.PathLike):
        where = "the list"
        files = sorted({pathlib.Path(path).resolve() for path in source})
        if files:
            root = pathlib.Path(os.path.commonpath([file.parent for file in files]))
            pictures = _of_files(files, root, out)
    elif (path := pathlib.Path(source)).is_dir():
        where, root = str(path), path.resolve()
        files = [file for file in root.rglob("*") if _is_picture(file.relative_to(root))]
        if out != root:
            files = [file for file in files if out not in file.parents]
        pictures = _of_files(files, root, out)
    elif path.is_file():
        where = str(path)
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{path} is not a zip that can be read ({error}). Expected a folder, a .zip or a "
                "list of pictures; for one picture give a list of one."
            ) from None
        members = {}
        for member in archive.infolist():
            name = pathlib.PureWindowsPath(member.filename)  # knows drives and both slashes
            if name.anchor or ".." in name.parts:
                refused.append(Failure(member.filename, "its name leads out of the folder"))
            elif _is_picture(name) and not member.is_dir():
                members[name.as_posix()] = member
        pictures = [_of_member(archive, member, name) for name, member in members.items()]
    else:
        raise DataError(
            f"There is no {path}. Expected a folder, a .zip or a list of pictures; check the path."
        )
    if not pictures and not refused:
        raise DataError(
            f"There are no pictures in {where}. Expected files that end in "
            f"{', '.join(sorted(_SUFFIXES))}."
        )
    return sorted(pictures, key=lambda picture: picture.name), refused


def _is_picture(name: pathlib.PurePath) -> bool:
    """Tells by the name; hidden files and the shadow folder that macOS adds to zips are not."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in _SUFFIXES and not hidden


def _of_files(
    files: Iterable[pathlib.Path], root: pathlib.Path, out: pathlib.Path
) -> list[_Picture]:
    pictures = {file.relative_to(root).as_posix(): file for file in files}
    targets = {out / crop for crop in _name_crops(pictures).values()}
    if out == root or not targets.isdisjoint(pictures.values()):
        raise DataError(
            f"The crops would be written among the photographs in {out}. Expected `out` to be a "
            f"folder of its own, such as {root.with_name(root.name + '-aligned')}."
        )

    def read(name: str) -> Callable[[], np.ndarray]:
        return lambda: images.read_image(pictures[name], name)

    return [
        _Picture(name, file.stat().st_size if file.is_file() else 0, read(name))
        for name, file in pictures.items()
    ]


def _of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> _Picture:
    def read() -> np.ndarray:
        if member.file_size > _MAX_BYTES:
            raise ImageError(f"{name} unpacks to {member.file_size} bytes. Make it smaller first.")
        try:
            data = archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ImageError(f"{name} is damaged in the zip ({error}). Pack it again.") from None
        except RuntimeError:  # what `zipfile` raises for a password
            raise ImageError(f"{name} is encrypted. Unpack the zip with its password.") from None
        return images.read_image(data, name)

    return _Picture(name, member.file_size, read)


def _name_crops(names: Iterable[str]) -> dict[str, str]:
    """Returns the path of each picture's crop, no two alike even where case is ignored."""
    plain = {name: pathlib.PurePosixPath(name).with_suffix(".jpg").as_posix() for name in names}
    uses = collections.Counter(crop.lower() for crop in plain.values())
    return {
        name: crop if uses[crop.lower()] == 1 else f"{name}.jpg" for name, crop in plain.items()
    }


def _read_manifest(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the lines by source; a line that an interruption cut is as if never written."""
    lines = {}
    for text in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            lines[line["source"]] = line
    return lines


def _write_manifest(
    out: pathlib.Path, lines: Mapping[str, Mapping[str, Any]], names: set[str]
) -> None:
    """Writes the lines of these pictures, and of earlier ones whose crops are still there."""
    taken = {lines[name].get("crop") for name in names}
    with atomic_path(out / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name, line in sorted(lines.items()):
            crop = line.get("crop")
            if name in names or (crop and crop not in taken and (out / crop).is_file()):
                file.write(json.dumps(line) + "\n")


def _in_order(
    work: Callable[[_Picture], dict[str, Any]], pictures: list[_Picture], threads: bool
) -> Iterator[dict[str, Any]]:
    """Yields results in the order of the pictures, a few ahead where threads may be used."""
    count = os.cpu_count() or 1
    if not threads or count == 1:
        yield from map(work, pictures)
        return
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        ahead: collections.deque[concurrent.futures.Future[dict[str, Any]]] = collections.deque()
        for picture in pictures:
            ahead.append(pool.submit(work, picture))
            if len(ahead) >= 4 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yields a function to call after each picture; it writes to a terminal twice a second."""
    start = shown = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()

    def tick() -> None:
        nonlocal done, shown
        done += 1
        now = time.monotonic()
        if terminal and (now - shown > 0.5 or done == total):
            shown = now
            rate = done / max(now - start, 1e-9)
            minutes, seconds = divmod(round((total - done) / rate), 60)
            text = f"{done}/{total} pictures, {rate:.1f}/s, {minutes}:{seconds:02} left"
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if terminal and done:
            print(file=sys.stderr)
