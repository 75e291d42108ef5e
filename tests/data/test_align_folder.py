import io
import json
import os
import pathlib
import shutil
import zipfile
from contextlib import nullcontext

import cv2
import numpy as np
import pytest

from spherekeras.data import align_folder as module
from spherekeras.data import alignment, detection, images
from spherekeras.data.align_folder import align_folder
from spherekeras.errors import DataError

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
)
FACE = np.array(alignment.TEMPLATES["sphereface_112x96"].landmarks)


class Drawn:
    """Finds a face where the template has it, one more in blue pictures, none in black ones."""

    name = "drawn"

    def __init__(self, thread_safe=False, stop_after=None):
        self.thread_safe = thread_safe
        self.calls = 0
        self.stop_after = stop_after

    def detect(self, image):
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        if not image.any():
            return []
        main = detection.Face((10, 20, 80, 90), FACE * 1.1 + [1 / 3, 2 / 3], 0.98766)
        other = detection.Face((0, 0, 9, 9), FACE / 9, 0.9)
        return [main, other] if image[0, 0, 2] > 200 else [main]


def draw(path, seed=0, kind=".jpg"):
    """Writes a picture of noise; kind "black" and "blue" as `Drawn` knows them."""
    image = np.random.default_rng(seed).integers(0, 199, (140, 130, 3), np.uint8)
    if kind == "black":
        image[:] = 0
    if kind == "blue":
        image[:, :, 0] = 250  # OpenCV writes BGR
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    """Seven pictures, three of them without a crop, and files that are no pictures."""
    root = tmp_path / "photographs"
    draw(root / "ann" / "ann_1.jpg", 1)
    draw(root / "ann" / "ann_2.png", 2)
    draw(root / "bob" / "deep" / "b.JPG", 3)
    draw(root / "crowd.jpg", 4, "blue")
    draw(root / "nobody.png", 5, "black")
    (root / "text.jpg").write_text("this is no picture")
    (root / "half.jpg").write_bytes((root / "crowd.jpg").read_bytes()[:3000])
    (root / "pairs.txt").write_text("not a picture, and not called one")
    draw(root / ".hidden.jpg")
    draw(root / "__MACOSX" / "shadow.jpg")
    return root


def tree(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


CROPS = {"ann/ann_1.jpg", "ann/ann_2.jpg", "bob/deep/b.jpg", "crowd.jpg"}


def test_a_folder_with_bad_files_is_worked_through(folder, tmp_path):
    out = tmp_path / "out"
    report = align_folder(folder, out, detector=Drawn())
    assert set(tree(out)) == CROPS | {"manifest.jsonl"}
    assert (report.aligned, report.already_done, report.several_faces) == (4, 0, 1)
    assert report.failures == (
        module.Failure(
            "half.jpg",
            "half.jpg is a JPEG that was cut short: its end is missing. "
            "Copy or download the picture again.",
        ),
        module.Failure("nobody.png", "no face found"),
        module.Failure(
            "text.jpg",
            "text.jpg is not a picture: it starts with b'this is no p'. "
            "Expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM; convert it to one of them.",
        ),
    )
    assert str(report) == (
        f"4 of 7 pictures have a crop in {out} (4 new); no face in 1, 2 unreadable, "
        "several faces in 1. Other files: 3."
    )


def test_the_manifest_has_a_line_a_picture_and_gives_the_crop_again(folder, tmp_path):
    out = tmp_path / "out"
    align_folder(folder, out, "arcface_112x112", Drawn(), "largest")
    lines = {line["source"]: line for line in manifest(out)}
    assert list(lines) == sorted(lines)
    assert len(lines) == 7 + 3
    assert lines["pairs.txt"] == {"source": "pairs.txt", "skipped": "not named as a picture"}
    assert lines[".hidden.jpg"] == {"source": ".hidden.jpg", "skipped": "hidden"}
    assert lines["__MACOSX/shadow.jpg"]["skipped"] == "hidden"
    assert lines["nobody.png"] == {
        "source": "nobody.png",
        "bytes": (folder / "nobody.png").stat().st_size,
        "template": "arcface_112x112",
        "detector": "drawn",
        "rule": "largest",
        "failure": "no face found",
    }
    line = lines["crowd.jpg"]
    assert (line["crop"], line["score"], line["faces"]) == ("crowd.jpg", 0.9877, 2)
    landmarks = np.array(line["landmarks"])
    np.testing.assert_allclose(landmarks, FACE * 1.1 + [1 / 3, 2 / 3], atol=0.0005)
    crop = alignment.align(images.read_image(folder / "crowd.jpg"), landmarks, "arcface_112x112")
    encoded = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    assert (out / "crowd.jpg").read_bytes() == encoded.tobytes()


def test_run_again_it_skips_what_is_done_and_tries_failures_anew(folder, tmp_path):
    out = tmp_path / "out"
    align_folder(folder, out, detector=Drawn())
    before = tree(out)
    again = Drawn()
    report = align_folder(folder, out, detector=again)
    assert again.calls == 1  # nobody.png; the other failures cannot be read
    assert (report.aligned, report.already_done, len(report.failures)) == (0, 4, 3)
    assert report.several_faces == 1
    assert tree(out) == before
    draw(folder / "nobody.png", 9)
    report = align_folder(folder, out, detector=Drawn())
    assert (report.aligned, report.already_done, len(report.failures)) == (1, 4, 2)


@pytest.mark.parametrize("stop_after", [1, 2, 4])
@pytest.mark.parametrize("cut", [0, 20])
def test_an_interrupted_run_is_resumed_to_the_same_bytes(folder, tmp_path, stop_after, cut):
    whole, out = tmp_path / "whole", tmp_path / "out"
    align_folder(folder, whole, detector=Drawn())
    with pytest.raises(KeyboardInterrupt):
        align_folder(folder, out, detector=Drawn(stop_after=stop_after))
    text = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(text[: len(text) - cut])
    again = Drawn()
    report = align_folder(folder, out, detector=again)
    assert again.calls <= 5 - (stop_after - 1) + (cut > 0)
    assert report.aligned + report.already_done == 4
    assert tree(out) == tree(whole)


@pytest.mark.parametrize(
    "change", ["crop gone", "picture replaced", "detector", "rule", "template"]
)
def test_what_changed_is_done_anew(folder, tmp_path, change):
    out = tmp_path / "out"
    align_folder(folder, out, detector=Drawn())
    settings = {"detector": Drawn()}
    if change == "crop gone":
        (out / "crowd.jpg").unlink()
    elif change == "picture replaced":
        draw(folder / "crowd.jpg", 77)
    elif change == "detector":
        settings["detector"].name = "another"
    else:
        settings[change] = {"rule": "best", "template": "arcface_112x112"}[change]
    report = align_folder(folder, out, **settings)
    anew = 1 if change in ("crop gone", "picture replaced") else 4
    assert (report.aligned, report.already_done) == (anew, 4 - anew)


def test_threads_give_the_same_bytes(folder, tmp_path, monkeypatch):
    for number in range(40):
        draw(folder / f"more_{number}.png", 100 + number)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    align_folder(folder, tmp_path / "one", detector=Drawn())
    align_folder(folder, tmp_path / "three", detector=Drawn(thread_safe=True))
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


def test_pictures_that_would_share_a_crop_keep_their_whole_names(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.jpg", "a.png", "b.png", "B.bmp", "c.png"):
        draw(root / name)
    report = align_folder(root, out, detector=Drawn())
    assert report.aligned == 5
    assert set(tree(out)) == {
        "a.jpg.jpg", "a.png.jpg", "b.png.jpg", "B.bmp.jpg", "c.jpg", "manifest.jsonl",
    }  # fmt: skip


def test_crops_differ_where_case_is_ignored_and_none_is_another_ones_folder(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    names = ["a.jpg", "A.jpg", "a.png", "a.jpg.jpg", "b.jpg/x.png", "b.jpg/y.png", "b.bmp"]
    for name in names:
        draw(root / name)
    report = align_folder(root, out, detector=Drawn())
    assert report.aligned == len(names)
    crops = [line["crop"] for line in manifest(out)]
    assert len({crop.lower() for crop in crops}) == len(names)
    assert {*crops, "manifest.jsonl"} == set(tree(out))
    assert {"b.bmp.jpg", "b.jpg/x.jpg", "b.jpg/y.jpg"} < set(crops)


def test_a_zip_gives_the_same_crops_as_its_folder(folder, tmp_path):
    archive = tmp_path / "photographs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in tree(folder).items():
            file.writestr(name, content)
        file.writestr("empty/", b"")
    align_folder(folder, tmp_path / "folder", detector=Drawn())
    report = align_folder(archive, tmp_path / "zip", detector=Drawn())
    assert len(report.failures) == 3
    assert tree(tmp_path / "zip") == tree(tmp_path / "folder")


@pytest.mark.parametrize(
    "name",
    ["/up.jpg", "../up.jpg", "a/../../up.jpg", "..\\up.jpg", "C:\\up.jpg", "\\\\host\\s\\u.jpg"],
)
def test_zip_members_never_leave_the_folder(tmp_path, name):
    picture = draw(tmp_path / "in" / "a.jpg").read_bytes()
    archive, out = tmp_path / "a.zip", tmp_path / "deep" / "out"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("good/a.jpg", picture)
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        file.writestr(member, picture)
    before = set(tree(tmp_path))
    report = align_folder(archive, out, detector=Drawn())
    assert report.failures == (module.Failure(name, "its name leads out of the folder"),)
    written = set(tree(tmp_path)) - before
    assert written == {"deep/out/good/a.jpg", "deep/out/manifest.jsonl"}
    assert manifest(out)[0]["source"] == min(name, "good/a.jpg")


def test_members_of_one_name_are_all_accounted_for(tmp_path):
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    pictures = [draw(tmp_path / "in" / "a.png", seed).read_bytes() for seed in range(3)]
    with zipfile.ZipFile(archive, "w") as file:
        for content in pictures:
            with pytest.warns(UserWarning) if "a.png" in file.namelist() else nullcontext():
                file.writestr("a.png", content)
    report = align_folder(archive, out, detector=Drawn())
    reason = "a later member has its name"
    assert report.failures == (module.Failure("a.png#1", reason), module.Failure("a.png#2", reason))
    align_folder([tmp_path / "in" / "a.png"], tmp_path / "last", detector=Drawn())
    assert (out / "a.jpg").read_bytes() == (tmp_path / "last" / "a.jpg").read_bytes()


def test_damaged_encrypted_and_huge_members_are_listed(tmp_path, monkeypatch):
    picture = draw(tmp_path / "in" / "a.png").read_bytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in ("damaged.png", "good.png", "secret.png"):
            file.writestr(name, picture)
        file.writestr("huge.bmp", b"BM" + bytes(len(picture) * 2))
    data = bytearray(content.getvalue())
    data[data.index(picture) + 500] ^= 255
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"secret.png"))
    data[entry + 8] |= 1  # the flag of encryption in the central directory
    local = data.rindex(b"PK\x03\x04", 0, data.index(b"secret.png"))
    data[local + 6] |= 1
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    monkeypatch.setattr(module, "_MAX_BYTES", len(picture) + 1)
    report = align_folder(archive, tmp_path / "out", detector=Drawn())
    assert report.aligned == 1
    reasons = {failure.source: failure.reason for failure in report.failures}
    assert reasons["damaged.png"].startswith("damaged.png is damaged in the zip (Bad CRC-32")
    assert reasons["secret.png"] == ("secret.png is encrypted. Unpack the zip with its password.")
    assert reasons["huge.bmp"] == (
        f"huge.bmp has {len(picture) * 2 + 2} bytes, expected at most {len(picture) + 1}. "
        "Make it smaller first."
    )


def test_a_list_is_named_from_its_common_folder(folder, tmp_path):
    paths = [folder / "ann" / "ann_1.jpg", str(folder / "bob" / "deep" / "b.JPG")]
    report = align_folder(
        [*paths, folder / "missing.jpg", paths[0], folder / ("n" * 300 + ".jpg")],
        tmp_path / "out",
        detector=Drawn(),
    )
    assert report.aligned == 2
    assert [failure.source for failure in report.failures] == ["missing.jpg", "n" * 300 + ".jpg"]
    assert report.failures[0].reason.startswith("There is no file missing.jpg. Expected")
    assert "File name too long" in report.failures[1].reason
    assert set(tree(tmp_path / "out")) == {"ann/ann_1.jpg", "bob/deep/b.jpg", "manifest.jsonl"}


def test_folders_zips_pictures_and_lists_together(folder, tmp_path):
    """What each of the four gives is named from the folder that all of them share."""
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "crowd.jpg", "deep/crowd.jpg")
        file.writestr("../up.jpg", b"")
        file.writestr("notes.md", b"")
    (tmp_path / "paths.txt").write_text("photographs/bob\n\n  photographs/crowd.jpg\n")
    out = tmp_path / "out"
    source = [folder / "ann", folder / "ann" / "ann_1.jpg", archive, tmp_path / "paths.txt"]
    report = align_folder(source, out, detector=Drawn())
    assert set(tree(out)) == {
        "manifest.jsonl",
        "more.zip/deep/crowd.jpg",
        *(f"photographs/{crop}" for crop in CROPS),
    }
    assert [failure.source for failure in report.failures] == ["more.zip/../up.jpg"]
    assert report.skipped == 1
    alone = align_folder(tmp_path / "paths.txt", tmp_path / "listed", detector=Drawn())
    assert (alone.aligned, alone.failures) == (2, ())


def test_linked_pictures_and_folders_keep_the_names_they_were_given(tmp_path):
    blob, other = draw(tmp_path / "store" / "x.jpg", 1), draw(tmp_path / "o" / "1.jpg", 2)
    root = tmp_path / "people"
    for person in ("ann", "bob"):
        (root / person).mkdir(parents=True)
        (root / person / "1.jpg").symlink_to(blob)
    (root / "cid").symlink_to(other.parent)
    (root / "ann" / "gone.jpg").symlink_to(tmp_path / "nothing")
    report = align_folder(root, tmp_path / "out", detector=Drawn())
    assert report.aligned == 3 and [f.source for f in report.failures] == ["ann/gone.jpg"]
    assert {"ann/1.jpg", "bob/1.jpg", "cid/1.jpg"} <= set(tree(tmp_path / "out"))
    listed = [root / "ann" / "1.jpg", root / "bob" / "1.jpg"]
    assert align_folder(listed, tmp_path / "listed", detector=Drawn()).aligned == 2
    assert {"ann/1.jpg", "bob/1.jpg"} <= set(tree(tmp_path / "listed"))
    assert align_folder(listed[0], tmp_path / "one", detector=Drawn()).aligned == 1
    link = tmp_path / "link"
    link.symlink_to(root)
    inside = align_folder(link, root / "crops", detector=Drawn())  # by its other name
    assert inside.aligned == 3
    assert align_folder(link, root / "crops", detector=Drawn()).already_done == 3


def test_one_picture_needs_no_list(folder, tmp_path):
    align_folder(folder / "crowd.jpg", tmp_path / "one", detector=Drawn())
    align_folder([folder / "crowd.jpg"], tmp_path / "list", detector=Drawn())
    assert set(tree(tmp_path / "one")) == {"crowd.jpg", "manifest.jsonl"}
    assert tree(tmp_path / "one") == tree(tmp_path / "list")


def test_a_list_that_is_no_text(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError) as error:
        align_folder(path, tmp_path / "out", detector=Drawn())
    assert str(error.value) == (
        f"{path} is not a list of paths. Expected text in UTF-8, a path a line."
    )


def test_of_several_frames_the_first_is_taken_and_the_manifest_says_so(tmp_path):
    shades = [np.full((90, 80, 3), shade, np.uint8) for shade in (60, 120, 180)]
    for suffix in (".gif", ".tiff"):
        path = tmp_path / "in" / f"pages{suffix}"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwritemulti(str(path), shades)
    draw(tmp_path / "in" / "single.gif")
    report = align_folder(tmp_path / "in", tmp_path / "out", detector=Drawn())
    assert (report.aligned, report.several_frames) == (3, 2)
    assert "First frame taken of 2." in str(report)
    lines = {line["source"]: line for line in manifest(tmp_path / "out")}
    assert {name: line.get("frames") for name, line in lines.items()} == {
        "pages.gif": 3, "pages.tiff": 3, "single.gif": None,
    }  # fmt: skip
    for name in ("pages.gif.jpg", "pages.tiff.jpg"):
        assert abs(images.read_image(tmp_path / "out" / name).mean() - 60) < 3


def test_a_pipe_is_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "pipe.jpg")
    report = align_folder(folder, tmp_path / "out", detector=Drawn())
    assert module.Failure(
        "pipe.jpg", "pipe.jpg is no file but a pipe or device. Expected a picture."
    ) in report.failures  # fmt: skip


def test_a_name_that_cannot_be_written_is_one_failure(tmp_path):
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    picture = draw(tmp_path / "in" / "a.jpg").read_bytes()
    long = "n" * 300 + ".jpg"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("a.jpg", long, "manifest.jsonl/b.jpg"):
            file.writestr(name, picture)
    report = align_folder(archive, out, detector=Drawn())
    reasons = {failure.source: failure.reason for failure in report.failures}
    assert reasons[long] == "its crop cannot be written (File name too long)"
    assert reasons["manifest.jsonl/b.jpg"].startswith("its crop cannot be written (")
    assert set(tree(out)) == {"a.jpg", "manifest.jsonl"}


def test_a_damaged_manifest_costs_work_not_the_run(folder, tmp_path):
    out = tmp_path / "out"
    align_folder(folder, out, detector=Drawn())
    before = tree(out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines()
    lines[5] = b"\xff" + lines[5][9:]
    lines[7:7] = [
        b"[1]",
        b'{"source": 3}',
        b'{"source": []}',
        b"null",
        b'{"source": "a", "crop": []}',
    ]
    (out / "manifest.jsonl").write_bytes(b"\n".join(lines))
    align_folder(folder, out, detector=Drawn())
    assert tree(out) == before


def test_crops_that_no_longer_hold_are_removed(folder, tmp_path):
    out = tmp_path / "out"
    align_folder(folder, out, detector=Drawn())
    (out / "ann" / "mine.jpg").write_bytes(b"not of this run")

    class Blind(Drawn):
        name = "blind"

        def detect(self, image):
            return []

    with pytest.raises(KeyboardInterrupt):  # after a failure that another run had not

        class Stopped(Blind):
            def detect(self, image):
                self.calls += 1
                if self.calls == 3:
                    raise KeyboardInterrupt
                return []

        align_folder(folder, out, detector=Stopped())
    report = align_folder(folder, out, detector=Blind())
    assert report.aligned == report.already_done == 0
    assert set(tree(out)) == {"ann/mine.jpg", "manifest.jsonl"}
    draw(folder / "ann" / "ann_1.png", 9)  # the crop of ann_1.jpg changes its name
    align_folder(folder, out, detector=Drawn())
    draw(folder / "ann" / "ann_2.jpg", 10)
    align_folder(folder, out, detector=Drawn())
    fresh = tmp_path / "fresh"
    align_folder(folder, fresh, detector=Drawn())
    (out / "ann" / "mine.jpg").unlink()
    assert tree(out) == tree(fresh)


@pytest.mark.parametrize("lost", ["gone", "damaged"])
def test_crops_of_pictures_that_cannot_be_read_any_more_stay(folder, tmp_path, lost):
    out, away = tmp_path / "out", tmp_path / "away"
    paths = [folder / "ann" / "ann_1.jpg", folder / "crowd.jpg", folder / "nobody.png"]
    align_folder(paths, out, detector=Drawn())
    before = tree(out)
    shutil.copytree(folder, away)
    for path in paths[:2]:
        path.unlink() if lost == "gone" else path.write_bytes(b"damaged")
    for _ in range(2):
        report = align_folder(paths, out, detector=Drawn())
        assert (report.aligned, report.already_done, report.several_faces) == (0, 0, 0)
        assert [failure.source for failure in report.failures] == [
            "ann/ann_1.jpg", "crowd.jpg", "nobody.png",
        ]  # fmt: skip
        assert tree(out) == before
    another = draw(folder / "crowd.png", 3)  # whose crop takes the other's name
    align_folder([paths[0], paths[2], another], out, detector=Drawn())
    align_folder([*paths, another], out, detector=Drawn())
    assert {line["source"]: line.get("crop") for line in manifest(out)} == {
        "ann/ann_1.jpg": "ann/ann_1.jpg", "crowd.jpg": None, "nobody.png": None,
        "crowd.png": "crowd.png.jpg",
    }  # fmt: skip
    shutil.copytree(away, folder, dirs_exist_ok=True)
    report = align_folder(paths, out, detector=Drawn())
    assert (report.aligned, report.already_done) == (1, 1)


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_no_crop_is_without_a_line_where_threads_are_stopped(folder, monkeypatch, stop_after):
    for number in range(20):
        draw(folder / "more" / f"{number}.png", 100 + number)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    out = folder / "aligned"
    with pytest.raises(KeyboardInterrupt):
        align_folder(folder, out, detector=Drawn(thread_safe=True, stop_after=stop_after))
    crops = set(tree(out)) - {"manifest.jsonl"}
    text = (out / "manifest.jsonl").read_text()
    assert {json.loads(line).get("crop") for line in text.splitlines() if line} - {None} == crops
    report = align_folder(sorted(folder.glob("[!._]*")), out, detector=Drawn())
    assert report.already_done == len(crops) and report.aligned == 24 - len(crops)


def test_a_manifest_that_names_files_elsewhere_removes_none(folder, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine.jpg"
    mine.write_bytes(b"mine")
    out.mkdir()
    lines = [{"source": "crowd.jpg", "crop": name} for name in ("../mine.jpg", str(mine))]
    (out / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    align_folder(folder, out, detector=Drawn())
    assert mine.read_bytes() == b"mine"


def test_a_folder_that_may_not_be_listed_is_a_failure(folder, tmp_path, monkeypatch):
    scan = os.scandir

    def refused(path):
        if pathlib.Path(path).name in ("bob", ".Trashes"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    (folder / ".Trashes").mkdir()
    report = align_folder(folder, tmp_path / "out", detector=Drawn())
    assert (
        module.Failure("bob", "a folder that may not be listed: change its rights")
        in report.failures
    )
    assert (report.aligned, len(report.failures)) == (3, 4)
    assert {"source": ".Trashes", "skipped": "hidden"} in manifest(tmp_path / "out")
    with pytest.raises(DataError, match=r"bob may not be listed\. Change its rights\."):
        align_folder(folder / "bob", tmp_path / "alone", detector=Drawn())


def test_a_second_source_joins_the_manifest(tmp_path):
    first = draw(tmp_path / "one" / "a.jpg")
    second = draw(tmp_path / "two" / "b.jpg")
    out = tmp_path / "out"
    align_folder([first], out, detector=Drawn())
    report = align_folder([second], out, detector=Drawn())
    assert (report.aligned, report.already_done) == (1, 0)
    assert [line["source"] for line in manifest(out)] == ["a.jpg", "b.jpg"]
    (out / "a.jpg").unlink()
    align_folder([second], out, detector=Drawn())
    assert [line["source"] for line in manifest(out)] == ["b.jpg"]


def test_crops_inside_the_source_are_not_taken_for_photographs(folder):
    for _ in range(2):
        report = align_folder(folder, folder / "crops", detector=Drawn())
        assert report.aligned + report.already_done == 4
    assert len(report.failures) == 3


def test_crops_among_the_sources_are_passed_over(folder):
    out = folder / "aligned"
    for done in (0, 4):  # the second time the shell's * names the crops' own folder, too
        report = align_folder(sorted(folder.glob("[!._]*")), out, detector=Drawn())
        assert report.already_done == done
        assert len(tree(out)) == 5


def test_photographs_are_never_overwritten(folder, tmp_path):
    before = tree(folder)
    for source, out in [
        (folder, folder),
        ([folder, folder / "ann"], folder / "ann"),
        ([folder / "crowd.jpg"], folder),
        (
            [folder / "crowd.jpg", draw(tmp_path / "out" / "photographs" / "crowd.jpg")],
            tmp_path / "out",
        ),
    ]:
        with pytest.raises(DataError, match="The crops would be written among the photographs in"):
            align_folder(source, out, detector=Drawn())
    assert tree(folder) == before
    archive = tmp_path / "backup.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ann/ann_1.jpg", draw(tmp_path / "other.jpg", 50).read_bytes())
    draw(folder / "in" / "crowd.png", 51)
    crop = np.zeros((112, 112, 3), np.uint8)  # a set of crops, as others have made them
    (tmp_path / "set").mkdir()
    cv2.imwrite(str(tmp_path / "set" / "crowd.jpg"), crop)
    set_of_crops = tree(tmp_path / "set")
    with pytest.raises(DataError, match="The crops would be written among the photographs in"):
        align_folder(folder / "in", tmp_path / "set", "arcface_112x112", Drawn())
    assert tree(tmp_path / "set") == set_of_crops
    for source in (archive, folder / "in"):  # pictures that are not among the sources
        with pytest.raises(DataError, match="The crops would be written among the photographs in"):
            align_folder(source, folder, detector=Drawn())
    (folder / "in" / "crowd.png").unlink()
    assert tree(folder) == before


def test_nothing_to_align(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError) as error:
        align_folder(tmp_path, tmp_path / "out", detector=Drawn())
    assert str(error.value) == (
        f"There are no pictures in {tmp_path}. Expected files that end in "
        ".bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .pbm, .pgm, .png, .pnm, .ppm, .tif, .tiff, .webp."
    )
    with pytest.raises(DataError, match=r"There are no pictures in the list\."):
        align_folder([], tmp_path / "out", detector=Drawn())
    with pytest.raises(
        DataError, match=rf"There is no {tmp_path / 'no'}\. Expected a folder, a .zi"
    ):
        align_folder(tmp_path / "no", tmp_path / "out", detector=Drawn())
    with pytest.raises(DataError, match=r"There are no pictures in .*notes\.txt\."):
        align_folder(tmp_path / "notes.txt", tmp_path / "out", detector=Drawn())
    (tmp_path / "notes").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"is not a zip that can be read \(File is not a zip file\)"
    ):
        align_folder(tmp_path / "notes", tmp_path / "out", detector=Drawn())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"template": "arcface"}, "There is no template 'arcface'"),
        ({"detector": "mtcn"}, "There is no detector 'mtcn'"),
        ({"rule": "centre"}, "There is no rule 'centre'"),
    ],
)
def test_wrong_settings_are_refused_before_work(folder, tmp_path, wrong, message):
    with pytest.raises(DataError, match=message):
        align_folder(folder, tmp_path / "out", **{"detector": Drawn(), **wrong})
    assert not (tmp_path / "out").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_for_terminals_only(folder, tmp_path, monkeypatch, capsys):
    align_folder(folder, tmp_path / "quiet", detector=Drawn())
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    align_folder(folder, tmp_path / "shown", detector=Drawn())
    assert "\r7/7 pictures, " in terminal.getvalue()
    assert "/s, 0:00 left" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_real_photographs_with_yunet(tmp_path):
    archive = DATA / "lfw-deepfunneled.zip"
    model = DATA / "models" / "face_detection_yunet_2026may.onnx"
    if not (archive.is_file() and model.is_file()):
        pytest.skip(f"no {archive} or {model}; set SPHEREKERAS_DATA")
    with zipfile.ZipFile(archive) as pictures:
        names = [name for name in pictures.namelist() if "/Aaron_" in name]
        for name in names:
            path = tmp_path / "in" / pathlib.PurePosixPath(name).name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pictures.read(name))
    detector = detection.YuNetDetector(model)
    report = align_folder(tmp_path / "in", tmp_path / "out", detector=detector)
    assert (report.aligned, report.failures) == (len(names), ())
    # In a crop the eyes, found anew, must lie near where the template wants them.
    eyes = []
    for crop in (tmp_path / "out").glob("*.jpg"):
        framed = cv2.copyMakeBorder(images.read_image(crop), 60, 60, 60, 60, cv2.BORDER_CONSTANT)
        eyes.append(detector.detect(framed)[0].landmarks[:2] - 60)
    np.testing.assert_allclose(np.median(eyes, axis=0), FACE[:2], atol=3)
