"""A thousand damaged and hostile files: none stops the aligner, leaves its folder or is lost."""

import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile

import cv2
import numpy as np
import pytest

from spherekeras.data import align_folder as module
from spherekeras.data import alignment, detection, images
from spherekeras.data.align_folder import align_folder
from spherekeras.data.drawn_faces import draw_face
from spherekeras.errors import ImageError

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
)
YUNET = DATA / "models" / "face_detection_yunet_2026may.onnx"
FACE = np.array(alignment.TEMPLATES["sphereface_112x96"].landmarks) / [96, 112]
SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".ppm")
DAMAGE = ("cut", "flipped", "overwritten", "spliced", "grown", "header", "renamed", "odd name")
WHOLE = ("renamed", "odd name")


class Everywhere:
    """Finds a face in any picture, where the template has it."""

    name = "everywhere"
    thread_safe = True

    def detect(self, image):
        height, width = image.shape[:2]
        return [detection.Face((0, 0, width, height), FACE * [width, height] + 0.01, 0.9)]


class Mischief:
    """Unpickled, it would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def originals(sizes=((96, 80), (64, 120))):
    """Drawn faces in every format, as (suffix, bytes)."""
    return [
        (suffix, cv2.imencode(suffix, draw_face(number, 0, size).image[..., ::-1])[1].tobytes())
        for number, size in enumerate(sizes)
        for suffix in SUFFIXES
    ]


def damaged(random, sources, kind):
    """Returns a suffix and the bytes of one file, damaged as `kind` says."""
    suffix, whole = sources[random.integers(len(sources))]
    data = bytearray(whole)
    places = random.integers(0, len(data), random.integers(1, 20))
    if kind == "cut":
        data = data[: random.integers(1, len(data))]
    elif kind == "flipped":
        for place in places:
            data[place] ^= 1 << random.integers(8)
    elif kind == "overwritten":
        data[places[0] : places[0] + 64] = random.bytes(64)
    elif kind == "spliced":
        data[places[0] :] = sources[random.integers(len(sources))][1][places[0] :]
    elif kind == "grown":
        data[places[0] : places[0]] = random.bytes(random.integers(1, 300))
    elif kind == "header":
        for place in random.integers(0, 64, 3):
            data[place] = random.integers(256)
    elif kind == "renamed":
        suffix = (*SUFFIXES, ".JPEG", ".tif")[random.integers(len(SUFFIXES) + 2)]
    return suffix, bytes(data)


def fill(folder, count, seed, sources):
    """Writes damaged files; returns the names of the whole ones among them."""
    random = np.random.default_rng(seed)
    whole = set()
    for number in range(count):
        kind = DAMAGE[number % len(DAMAGE)]
        suffix, data = damaged(random, sources, kind)
        stem = f"{kind} {number}"
        if kind == "odd name":
            stem += random.choice(["ünï", "a.b", "%2e%2e", "';rm", "\n", "-rf", "x" * 200])
        path = folder / f"{number % 7}" / f"{stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if kind in WHOLE:
            whole.add(path.relative_to(folder).as_posix())
    return whole


def hostile(folder, elsewhere):
    """Writes what is no picture, under names of pictures and others; returns how many."""
    files = {
        "empty.jpg": b"",
        "pickle.jpg": pickle.dumps(Mischief(elsewhere)),
        "pickle.bin": pickle.dumps(Mischief(elsewhere)),
        "model.pkl": pickle.dumps(Mischief(elsewhere)),
        "page.png": b"<html><script>alert(1)</script>",
        "archive.jpg": b"PK\x03\x04" + bytes(100),
        "vector.gif": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "huge.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1),
        "huge.bmp": b"BM" + bytes(12) + struct.pack("<III", 40, 60000, 60000) + bytes(60),
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20),
        "huge.ppm": b"P6 99999 99999 255 ",
        "zeros.tiff": bytes(4096),
    }
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "nowhere.jpg").symlink_to("/no/such/file.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    return len(files) + 2


def pack(path, seed, sources, count, elsewhere):
    """Writes a zip of damaged members and of hostile ones; returns its members' names."""
    random = np.random.default_rng(seed)
    picture = sources[0][1]
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # names given twice
        for name in (
            "../up.jpg", "a/../../../up.jpg", "/absolute.jpg", "C:\\drive.jpg", "C:drive.jpg",
            "..\\back.jpg", "\\\\host\\share\\a.jpg", "../../etc/cron.d/x.png",
        ):  # fmt: skip
            member = zipfile.ZipInfo("placeholder")
            member.filename = name
            archive.writestr(member, picture)
        archive.writestr(link, str(elsewhere))
        archive.writestr("link.jpg/through.jpg", picture)
        archive.writestr("bomb.bmp", b"BM" + bytes(5_000_000))
        archive.writestr("liar.bmp", b"BM" + bytes(900_000))
        archive.writestr("pickle.jpg", pickle.dumps(Mischief(elsewhere)))
        archive.writestr("notes.txt", "no picture")
        for _ in range(3):
            archive.writestr("twice.jpg", picture)
        while len(archive.infolist()) < count:
            number = len(archive.infolist())
            suffix, data = damaged(random, sources, DAMAGE[number % len(DAMAGE)])
            archive.writestr(f"{number}{suffix}", data)
        names = [member.filename for member in archive.infolist()]
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"liar.bmp"))
    data[entry + 24 : entry + 28] = struct.pack("<I", 5000)  # unpacks to more than it says
    path.write_bytes(data)
    return names


def listing(root, apart):
    """Everything under a folder but for one folder in it: kinds and contents."""
    found = {}
    for path in root.rglob("*"):
        if path != apart and apart not in path.parents:
            plain = path.is_file() and not path.is_symlink()
            found[path] = path.read_bytes() if plain else path.lstat().st_mode
    return found


def check_manifest(out, count):
    """Every line has one end; every crop is there and is one, and nothing else lies in `out`."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["source"] for line in lines}) == count
    assert all(sum(end in line for end in ("crop", "failure", "skipped")) == 1 for line in lines)
    crops = {line["crop"] for line in lines if "crop" in line}
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert written == crops | {"manifest.jsonl"}
    assert {images.read_image(out / crop).shape for crop in crops} == {(112, 96, 3)}
    return {line["source"]: line for line in lines}


def decodes(path):
    try:
        images.read_image(path)
    except ImageError:
        return False
    return True


def test_a_thousand_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 1_000_000)
    sources, out, elsewhere = originals(), tmp_path / "deep" / "out", tmp_path / "elsewhere"
    whole = fill(tmp_path / "in", 772, 0, sources)
    extra = hostile(tmp_path / "in" / "hostile", elsewhere)
    names = pack(tmp_path / "in.zip", 1, sources, 200 + 14, elsewhere)
    assert 772 + extra + len(names) == 1000
    before = listing(tmp_path, tmp_path / "deep")

    report = align_folder(tmp_path / "in", out / "folder", detector=Everywhere())
    packed = align_folder(tmp_path / "in.zip", out / "zip", detector=Everywhere())

    assert listing(tmp_path, tmp_path / "deep") == before
    assert sorted(p.name for p in out.iterdir()) == ["folder", "zip"]
    lines = check_manifest(out / "folder", 772 + extra)
    assert {
        name
        for name, line in lines.items()
        if "skipped" not in line and decodes(tmp_path / "in" / name)
    } == {name for name, line in lines.items() if "crop" in line}
    assert whole <= {name for name, line in lines.items() if "crop" in line}
    assert 772 // 3 < report.aligned < 772 * 2 // 3  # damage that shows, and damage that does not
    assert {name for name, line in lines.items() if "skipped" in line} == {
        "hostile/model.pkl", "hostile/pickle.bin",
    }  # fmt: skip
    assert not any("hostile" in name and "crop" in line for name, line in lines.items())

    lines = check_manifest(out / "zip", len(names))
    reasons = {name: line.get("failure") for name, line in lines.items()}
    refused = [name for name, why in reasons.items() if why == "its name leads out of the folder"]
    assert sorted(refused) == sorted(names[:8])
    assert reasons["link.jpg"].startswith("link.jpg is not a picture: it starts with b'")
    assert reasons["bomb.bmp"].startswith("bomb.bmp has 5000002 bytes, expected at most 1000000.")
    assert reasons["liar.bmp"].startswith("liar.bmp is damaged in the zip (")
    assert reasons["twice.jpg#1"] == reasons["twice.jpg#2"] == "a later member has its name"
    assert lines["twice.jpg"]["crop"] == "twice.jpg"
    assert lines["notes.txt"]["skipped"] == "not named as a picture"
    assert packed.aligned > 60

    again = align_folder(tmp_path / "in", out / "folder", detector=Everywhere())
    assert (again.aligned, again.already_done) == (0, report.aligned)
    assert again.failures == report.failures


@pytest.mark.skipif(not YUNET.is_file(), reason=f"no {YUNET}; set SPHEREKERAS_DATA")
def test_the_command_line_says_one_sentence_a_file_and_nothing_else(tmp_path):
    """In a process of its own: the decoders' own complaints must not reach the terminal."""
    whole = fill(tmp_path / "in", 40, 2, originals([(128, 128)]))
    extra = hostile(tmp_path / "in" / "hostile", tmp_path / "elsewhere")
    result = subprocess.run(
        [sys.executable, "-m", "spherekeras", "align", tmp_path / "in", "--out", tmp_path / "out",
         "--detector", "yunet", "--detector-model", YUNET],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    lines = check_manifest(tmp_path / "out", 40 + extra)
    failures = {name: line["failure"] for name, line in lines.items() if "failure" in line}
    assert result.returncode == 1
    assert result.stderr == "".join(f"left out: {n}: {failures[n]}\n" for n in sorted(failures))
    assert f"{len(lines) - len(failures) - 2} of {len(lines) - 2} pictures" in result.stdout
    assert whole <= {name for name, line in lines.items() if "crop" in line}
    assert not (tmp_path / "elsewhere").exists()
