"""What the README and the examples show, run as a newcomer would."""

import json
import os
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

import spherekeras as sk
from spherekeras import presets
from spherekeras.data.drawn_faces import draw_face
from spherekeras.embedder import golden_crops

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# digits.py takes minutes and writes what is committed: tests/test_digits.py has its parts.
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.stem != "digits")


def run(program: str | pathlib.Path, folder: pathlib.Path) -> str:
    arguments = ["-c", program] if isinstance(program, str) else [str(program)]
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippets_run(number: int, tmp_path: pathlib.Path) -> None:
    assert len(SNIPPETS) == 4
    for name, identity in (("a", 3), ("b", 4)):
        image = draw_face(identity, 0, (320, 320)).image
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), image[..., ::-1])
    run(SNIPPETS[number], tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_and_are_short(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
    said = run(path, tmp_path)
    assert said
    if path.stem == "fine_tune":
        assert len(path.read_text().splitlines()) < 40
        before, after = (float(share) for share in re.findall(r"([\d.]+)%", said.splitlines()[-1]))
        assert (before, after) == (pytest.approx(92.5, abs=1), pytest.approx(99, abs=1))  # README's


def test_readme_tells_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("quickstart", "test"):
        assert f"make {command} " in README and f"\n{command}:" in makefile


def test_no_picture_is_shipped_but_the_two_of_drawings_and_digits() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so what is committed cannot be listed")
    suffixes = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".ppm", ".zip", ".npy"}
    found = {p for p in listed.stdout.split("\n") if pathlib.Path(p).suffix.lower() in suffixes}
    assert found == {"examples/digits.png", "examples/quickstart.png"}


def test_golden_inputs_are_patterns_and_no_faces() -> None:
    paths = list((ROOT / "zoo").glob("*/golden.npz"))
    assert len(paths) >= 8
    for path in paths:
        config = presets.read_config(path.parent)
        with np.load(path) as golden:
            assert set(golden) == {"crops", "embeddings"}
            np.testing.assert_array_equal(
                golden["crops"], golden_crops(config.height, config.width)
            )


def test_zoo_weights_are_whole_and_say_where_they_come_from() -> None:
    folders = [p.parent for p in (ROOT / "zoo").glob("*/config.json")]
    assert folders, "zoo/ holds no preset"
    for folder in folders:
        faces = sk.load_preset(folder)
        assert faces.check_golden() <= 1e-4
        for key in ("terms", "overlap", "limits", "weights_licence", "thresholds", "metrics"):
            assert faces.metadata[key], f"{folder.name} has no {key}"
        assert json.loads((folder / "metadata.json").read_text())["name"] == folder.name
