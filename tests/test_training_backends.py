"""A recipe trains on JAX and torch where TensorFlow is not installed."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from spherekeras.data.drawn_faces import write_drawn_crops
from spherekeras.data.records import pack
from spherekeras.embedder import FaceEmbedder

RECIPE = """
[data]
validation = 0.61
[backbone]
depth = 4
embedding_dim = 16
[head]
annealing = [10.0, 0.12, 1.0, 5.0]
[optimizer]
learning_rate = 0.02
average = 0.5
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
from spherekeras import checkpoints, training

class Kill(Exception): pass

def kill(self, model):
    keep(self, model)
    self.wait()
    raise Kill

keep = checkpoints.Checkpoints.keep
training.train("mine.toml", "records", "run", verbose=0)
training.train("parts.toml", "records", "parts", verbose=0)
checkpoints.Checkpoints.keep = kill
try:
    training.train("mine.toml", "records", "killed", verbose=0)
except Kill:
    checkpoints.Checkpoints.keep = keep
    training.train("mine.toml", "records", "killed", verbose=0)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_recipe_trains_without_tensorflow(backend: str, tmp_path: pathlib.Path) -> None:
    """To the same weights in parts, and when it was killed after its first checkpoint."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so training on it was not tried")
    write_drawn_crops(tmp_path / "crops", range(8), 4)
    pack(tmp_path / "crops", tmp_path / "records")
    for name, recipe in {
        "mine": RECIPE,
        "parts": RECIPE.replace("batch_size = 8", "batch_size = 8\naccumulation = 2"),
    }.items():
        (tmp_path / f"{name}.toml").write_text(f'name = "mine"\n{recipe}')
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    faces = FaceEmbedder.from_preset(tmp_path / "run" / "preset")
    assert faces.metadata["trained_on"]["steps"] == 6
    assert faces.check_golden() <= 1e-4  # what that backend computed, TensorFlow computes
    whole = np.load(tmp_path / "run" / "checkpoint.npz")
    kernels = [name for name in whole if name.endswith("kernel") and name.startswith("model")]
    assert len(kernels) == 6
    for run, bound in (("parts", 2e-6), ("killed", 0.0)):
        other = np.load(tmp_path / run / "checkpoint.npz")
        for name in kernels:
            np.testing.assert_allclose(
                other[name], whole[name], atol=bound, err_msg=f"{run} {name}"
            )
