"""A recipe trains on JAX and torch where TensorFlow is not installed."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from spherekeras.data.drawn_faces import write_drawn_crops
from spherekeras.data.records import pack
from spherekeras.embedder import FaceEmbedder

RECIPE = """
[data]
validation = 0.25
[backbone]
depth = 4
embedding_dim = 16
[optimizer]
learning_rate = 0.02
[training]
steps = 6
batch_size = 8
checkpoint_steps = 3
[augmentation]
shift = 2
jpeg = 0.5
"""
PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # importing it fails
from spherekeras.training import train
train(*sys.argv[1:], verbose=0)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_recipe_trains_without_tensorflow(backend: str, tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so training on it was not tried")
    write_drawn_crops(tmp_path / "crops", range(8), 4)
    pack(tmp_path / "crops", tmp_path / "records")
    (tmp_path / "mine.toml").write_text(RECIPE)
    command = [sys.executable, "-c", PROGRAM, "mine.toml", "records", "run"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    faces = FaceEmbedder.from_preset(tmp_path / "run" / "preset")
    assert faces.metadata["trained_on"]["steps"] == 6
    assert faces.check_golden() <= 1e-4  # what that backend computed, TensorFlow computes
