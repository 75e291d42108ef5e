"""A folder, zip or list of photographs to a folder of aligned crops, resumable."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from spherekeras.data import alignment, detection, images, picture_headers
from spherekeras.errors import DataError, ImageError, SphereKerasError
from spherekeras.files import DAMAGED_ZIP, atomic_path, files_below, is_hidden, read_member

MANIFEST = "manifest.jsonl"
JPEG_QUALITY = 95

_MAX_BYTES = 500_000_000
_NO_FACE = "no face found"
_NOT_A_PICTURE = "not named as a picture"
# What a name can do to the one crop it stands for; a full disk is another matter.
_UNWRITABLE = {
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.EILSEQ,
}


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
        several_frames: animations and TIFFs of several pages, of which the first was taken.
        skipped: files that are hidden or not named as pictures.
        failures: pictures without a crop.
    """

    out: pathlib.Path
    aligned: int
    already_done: int
    several_faces: int
    several_frames: int
    skipped: int
    failures: tuple[Failure, ...]

    def __str__(self) -> str:
        done = self.aligned + self.already_done
        no_face = sum(failure.reason == _NO_FACE for failure in self.failures)
        return (
            f"{done} of {done + len(self.failures)} pictures have a crop in {self.out} "
            f"({self.aligned} new); no face in {no_face}, {len(self.failures) - no_face} "
            f"unreadable, several faces in {self.several_faces}."
            + f" First frame taken of {self.several_frames}." * bool(self.several_frames)
            + f" Other files: {self.skipped}." * bool(self.skipped)
        )


@dataclasses.dataclass(frozen=True)
class _Picture:
    name: str  # relative, with forward slashes
    size: int  # bytes
    read: Callable[[], bytes]


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

    `out/manifest.jsonl` has a line a file, sorted: source, its bytes, template, detector and
    rule; frames, where there are several (the first is taken); then crop, landmarks (pixels of
    the picture), score and the number of faces among which the rule chose, or failure. Files
    that are hidden or not named as pictures have a line that says so. Run again, it skips what
    the manifest says is done with the same settings, tries the failures anew, and ends with the
    same bytes as one uninterrupted run. The crop of a picture in which no face is found any more is
    removed; that of one which cannot be read any more stays, with its line. A picture is known by
    its name below the source and its bytes' number: give folders whose pictures share names
    together, or each an `out` of its own.

    Args:
        source: a folder (searched with its subfolders), a .zip, a picture, a .txt with a path a
            line (relative to the file), or several of these (named relative to their common
            folder).
        out: the folder to write to.
        template: a name in `alignment.TEMPLATES`.
        detector: a name for `detection.load_detector`, or a detector.
        rule: which of several faces is meant, see `detection.choose_face`.

    Returns:
        Counts and failures; `print(report)` says them in one sentence.

    Raises:
        DataError: no pictures, a damaged zip or list, a folder that may not be listed, an unknown
            template, detector or rule, or a crop that would overwrite a photograph.
    """
    alignment.find_template(template)
    detection.check_rule(rule)
    out = pathlib.Path(out)
    with contextlib.ExitStack() as stack:
        pictures, refused, skipped = _list_pictures(source, out.resolve(), stack)
        crops = _name_crops([picture.name for picture in pictures])
        finder = detection.load_detector(detector) if isinstance(detector, str) else detector
        settings = {"template": template, "detector": finder.name, "rule": rule}
        history = _read_manifest(out / MANIFEST)
        lines = {str(line["source"]): line for line in history}
        _keep_photographs(out, {*crops.values()}, history, template)
        writing = threading.Lock()

        def is_done(picture: _Picture) -> bool:
            wanted = {"bytes": picture.size, "crop": crops[picture.name], **settings}
            line = lines.get(picture.name, {})
            return wanted.items() <= line.items() and (out / line["crop"]).is_file()

        def work(picture: _Picture) -> dict[str, Any]:
            line = _align_one(picture, crops[picture.name], out, finder, settings)
            with writing:  # at once, whatever stops the run: no crop without a line
                manifest.write(json.dumps(line) + "\n")
                manifest.flush()
            return line

        waiting = [picture for picture in pictures if not is_done(picture)]
        out.mkdir(parents=True, exist_ok=True)
        with (
            (out / MANIFEST).open("a", encoding="utf-8") as manifest,
            _progress(len(waiting)) as tick,
            contextlib.closing(_in_order(work, waiting, finder.thread_safe)) as results,
        ):
            manifest.write("\n")  # ends a line that an interruption cut
            for line in results:
                lines[line["source"]] = line
                tick()
    for failure in refused:
        lines[failure.source] = {"source": failure.source, **settings, "failure": failure.reason}
    for name, reason in skipped.items():
        lines[name] = {"source": name, "skipped": reason}
    names = sorted({*crops, *(failure.source for failure in refused), *skipped})
    kept = {**lines, **_unread(out, lines, history)}
    told = {str(line["crop"]) for line in history if line["source"] in kept and "crop" in line}
    _remove(out, told, kept)
    _write_manifest(out, kept, set(names))
    return AlignReport(
        out=out,
        aligned=sum("crop" in lines[picture.name] for picture in waiting),
        already_done=len(pictures) - len(waiting),
        several_faces=sum(lines[name].get("faces", 0) > 1 for name in names),
        several_frames=sum("frames" in lines[name] for name in names),
        skipped=len(skipped),
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
        if picture.size > _MAX_BYTES:
            raise ImageError(
                f"{picture.name} has {picture.size} bytes, expected at most {_MAX_BYTES}. "
                "Make it smaller first."
            )
        data = picture.read()
        image = images.read_image(data, picture.name)
        header = picture_headers.read_header(data)
        if header and header.frames > 1:
            line["frames"] = header.frames
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
    try:
        with atomic_path(out / crop) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        return {**line, "failure": f"its crop cannot be written ({error.strerror})"}
    found = {"score": round(face.score, 4), "faces": len(faces)}
    return {**line, "crop": crop, "landmarks": landmarks.tolist(), **found}


def _list_pictures(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: pathlib.Path,
    stack: contextlib.ExitStack,
) -> tuple[list[_Picture], list[Failure], dict[str, str]]:
    """Returns the pictures sorted by name, members of zips that are refused, and other files."""
    items = [source] if isinstance(source, str | os.PathLike) else list(source)
    paths = [path for item in items for path in _expanded(pathlib.Path(item))]
    # Not what links lead to: a picture has the name and the folder under which it was given.
    files = sorted({pathlib.Path(os.path.abspath(path)) for path in paths})
    where = str(items[0]) if len(items) == 1 else "the list"
    alone = len(paths) == 1
    if alone and not files[0].exists():
        raise DataError(
            f"There is no {paths[0]}. Expected a folder, a .zip, a picture or a list of them; "
            "check the path."
        )
    alone = alone and (files[0].is_dir() or not _is_picture(files[0]))
    if alone:
        root = files[0]
    elif files:
        root = pathlib.Path(os.path.commonpath([file.parent for file in files]))
    pictures: list[_Picture] = []
    refused: list[Failure] = []
    skipped: dict[str, str] = {}
    found: dict[str, pathlib.Path] = {}
    for file in files:
        if os.path.isdir(file):  # False, not an error, for what may not be looked at
            if out == file.resolve() and _holds_others(out):
                raise _among(out)
            closed: list[pathlib.Path] = []
            for inner in files_below(file, out, closed):
                name = inner.relative_to(root).as_posix()
                if reason := _not_a_picture(inner.relative_to(file)):
                    skipped[name] = reason
                else:
                    found[name] = inner
            for folder in closed:
                name = folder.relative_to(root).as_posix()
                if folder == root:
                    raise DataError(f"{root} may not be listed. Change its rights.")
                if is_hidden(folder.relative_to(file).parts):
                    skipped[name] = "hidden"
                else:
                    refused.append(
                        Failure(name, "a folder that may not be listed: change its rights")
                    )
        elif alone or file.suffix.lower() == ".zip":
            prefix = "" if alone else f"{file.relative_to(root).as_posix()}/"
            members = _list_members(file, prefix, stack)
            pictures += members[0]
            refused += members[1]
            skipped.update(members[2])
        else:
            found[file.relative_to(root).as_posix()] = file
    if found:
        pictures += _of_files(found, root, out)
    if not pictures and not refused:
        raise DataError(
            f"There are no pictures in {where}. Expected files that end in "
            f"{', '.join(sorted(images.SUFFIXES))}."
        )
    for name in found:
        skipped.pop(name, None)  # named itself in the list
    return sorted(pictures, key=lambda picture: picture.name), refused, skipped


def _expanded(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths that a .txt lists, of anything else the path itself."""
    if path.suffix.lower() != ".txt" or not path.is_file():
        return [path]
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is not a list of paths. Expected text in UTF-8, a path a line."
        ) from None
    return [path.parent / line.strip() for line in lines if line.strip()]


def _list_members(
    path: pathlib.Path, prefix: str, stack: contextlib.ExitStack
) -> tuple[list[_Picture], list[Failure], dict[str, str]]:
    """Returns the pictures of a zip, what is refused of it, and its other files."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except DAMAGED_ZIP as error:
        raise DataError(
            f"{path} is not a zip that can be read ({error}). Expected a folder, a .zip, a picture "
            "or a list of them."
        ) from None
    pictures: dict[str, _Picture] = {}
    refused: list[Failure] = []
    skipped: dict[str, str] = {}
    uses: collections.Counter[str] = collections.Counter()
    for member in archive.infolist():
        inner = pathlib.PureWindowsPath(member.filename)  # knows drives and both slashes
        name = prefix + inner.as_posix()
        if member.is_dir():
            continue
        if inner.anchor or ".." in inner.parts:
            refused.append(Failure(prefix + member.filename, "its name leads out of the folder"))
        elif reason := _not_a_picture(inner):
            skipped[name] = reason
        else:
            if name in pictures:
                refused.append(Failure(f"{name}#{uses[name]}", "a later member has its name"))
            uses[name] += 1
            pictures[name] = _of_member(archive, member, name)
    return list(pictures.values()), refused, skipped


def _not_a_picture(name: pathlib.PurePath) -> str:
    """Tells by the name why a file is none, "" for a picture; macOS adds `__MACOSX` to zips."""
    if is_hidden(name.parts):
        return "hidden"
    return "" if _is_picture(name) else _NOT_A_PICTURE


def _is_picture(name: pathlib.PurePath) -> bool:
    return name.suffix.lower() in images.SUFFIXES


def _holds_others(out: pathlib.Path) -> bool:
    """Whether there are pictures in `out` of which its manifest does not tell."""
    told = {line.get("crop") for line in _read_manifest(out / MANIFEST)}
    names = (path.relative_to(out) for path in files_below(out))
    return any(not _not_a_picture(name) and name.as_posix() not in told for name in names)


def _among(out: pathlib.Path) -> DataError:
    return DataError(
        f"The crops would be written among the photographs in {out}. Expected `out` to be a "
        f"folder of its own, such as {out.parent / (out.name + '-aligned')}."
    )


def _of_files(
    files: Mapping[str, pathlib.Path], root: pathlib.Path, out: pathlib.Path
) -> list[_Picture]:
    targets = {str(out / crop) for crop in _name_crops(files).values()}
    if out == root.resolve() or not targets.isdisjoint(map(os.path.realpath, files.values())):
        raise _among(out)

    def read(name: str) -> Callable[[], bytes]:
        return lambda: images.read_bytes(files[name], name)

    return [
        _Picture(name, os.path.getsize(file) if os.path.isfile(file) else 0, read(name))
        for name, file in files.items()
    ]


def _of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> _Picture:
    def read() -> bytes:
        try:
            return read_member(archive, member)
        except DAMAGED_ZIP as error:
            raise ImageError(f"{name} is damaged in the zip ({error}). Pack it again.") from None
        except RuntimeError:  # what `zipfile` raises for a password
            raise ImageError(f"{name} is encrypted. Unpack the zip with its password.") from None

    return _Picture(name, member.file_size, read)


def _name_crops(names: Iterable[str]) -> dict[str, str]:
    """Returns the path of each picture's crop.

    No two are alike, even where case is ignored, and none is a folder that another lies in.
    """
    names = sorted(names)
    plain = {name: pathlib.PurePosixPath(name).with_suffix(".jpg").as_posix() for name in names}
    uses = collections.Counter(crop.lower() for crop in plain.values())
    taken = {
        parent.as_posix().lower()
        for name in names
        for parent in pathlib.PurePosixPath(name).parents
    }
    for name, crop in plain.items():
        if uses[crop.lower()] > 1 or crop.lower() in taken:
            crop = f"{name}.jpg"
            while crop.lower() in taken or crop.lower() in uses:
                crop += ".jpg"
        taken.add(crop.lower())
        plain[name] = crop
    return plain


def _read_manifest(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines; of a source the last counts, and one that was cut is as never written."""
    lines = []
    for text in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = {**json.loads(text)}
            if isinstance(line.get("crop", ""), str):
                lines.append({**line, "source": str(line["source"])})
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


def _keep_photographs(
    out: pathlib.Path,
    crops: Iterable[str],
    history: Iterable[Mapping[str, Any]],
    template: str,
) -> None:
    """Refuses to write over a picture of which the manifest does not tell and that is no crop.

    A crop may have lost its line with a part of the manifest, but not without a manifest.
    """
    told = {line.get("crop") for line in history}
    used = {template, *(line.get("template") for line in history)}
    ours = [alignment.TEMPLATES[name] for name in alignment.TEMPLATES if name in used]
    sizes = {(t.width, t.height) for t in ours if (out / MANIFEST).is_file()}
    for crop in crops:
        if crop not in told and (out / crop).is_file():
            header = picture_headers.read_header((out / crop).read_bytes())
            if header is None or (header.width, header.height) not in sizes:
                raise _among(out)


def _unread(
    out: pathlib.Path,
    lines: Mapping[str, Mapping[str, Any]],
    history: Iterable[Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Returns the earlier lines of pictures that have a crop and could not be read this time."""
    taken = {line.get("crop") for line in lines.values()}
    earlier = {}
    for line in history:
        crop, now = line.get("crop"), lines[line["source"]].get("failure")
        if crop and now not in (None, _NO_FACE) and crop not in taken and (out / crop).is_file():
            earlier[str(line["source"])] = line
    return earlier


def _remove(
    out: pathlib.Path, crops: Iterable[str], lines: Mapping[str, Mapping[str, Any]]
) -> None:
    """Removes those crops of an earlier run that no line tells of any more."""
    taken = {line.get("crop") for line in lines.values()}
    for crop in {*crops} - taken:
        path = out / crop
        if path.suffix == ".jpg" and path.resolve().is_relative_to(out.resolve()):
            path.unlink(missing_ok=True)


def _in_order(
    work: Callable[[_Picture], dict[str, Any]], pictures: list[_Picture], threads: bool
) -> Generator[dict[str, Any], None, None]:
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
