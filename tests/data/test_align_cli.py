"""`spherekeras align` in a process of its own."""

import json
import os
import pathlib
import re
import subprocess
import sys

import cv2
import pytest

from spherekeras.data.drawn_faces import draw_face

YUNET = (
    pathlib.Path(
        os.environ.get("SPHEREKERAS_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
    )
    / "models"
    / "face_detection_yunet_2026may.onnx"
)
pytestmark = pytest.mark.skipif(not YUNET.is_file(), reason=f"no {YUNET}; set SPHEREKERAS_DATA")


def command(*arguments):
    align = [sys.executable, "-m", "spherekeras", "align", *map(str, arguments)]
    return [*align, "--detector-model", str(YUNET)]


@pytest.fixture
def folder(tmp_path):
    for number in range(24):
        path = tmp_path / "in" / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw_face(number, 0, (200, 200)).image[..., ::-1])
    return tmp_path / "in"


def test_folders_and_pictures_together_with_a_rule(folder, tmp_path):
    (tmp_path / "list.txt").write_text("in/1/1.jpg\nin/1/none.jpg\n")
    done = subprocess.run(
        command(folder / "0", tmp_path / "list.txt", "--out", tmp_path / "out", "--json",
                "--rule", "largest", "--template", "arcface_112x112"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    reason = "There is no file 1/none.jpg. Expected a picture; check the path."
    assert done.returncode == 1
    assert done.stderr == f"left out: 1/none.jpg: {reason}\n"
    assert json.loads(done.stdout) == {
        "out": str(tmp_path / "out"), "aligned": 13, "already_done": 0, "several_faces": 0,
        "several_frames": 0, "skipped": 0, "failures": {"1/none.jpg": reason},
    }  # fmt: skip
    lines = [json.loads(s) for s in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert {(line["rule"], line["template"]) for line in lines} == {("largest", "arcface_112x112")}
    wrong = subprocess.run(
        command(folder, "--out", tmp_path / "none", "--rule", "larges"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "spherekeras align: There is no rule 'larges'. Did you mean 'largest'? "
        "Known: central-largest, largest, central, best.\n"
    )


def test_a_terminal_sees_rate_and_time_left(folder, tmp_path):
    pty = pytest.importorskip("pty", reason="no terminals to pretend on this system")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command(folder, "--out", tmp_path / "out"),
        stdout=subprocess.PIPE, stderr=theirs, timeout=120,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert re.search(r"\r24/24 pictures, \d+\.\d/s, 0:00 left +\r?\n$", shown), shown
    assert re.fullmatch(r"(\r\d+/24 pictures, \d+\.\d/s, \d+:\d\d left +)+\r?\n", shown), shown
