"""Eight JAX devices: one device's weights, and a program in which no class weights travel."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from spherekeras import sharding
from spherekeras.data.drawn_faces import write_drawn_crops
from spherekeras.data.records import pack

CLASSES, STEPS = 40, 6  # 5 a device: no other axis has 5 or 40
DRAWN = 16  # 2 a device, with one row's own 3 columns: no other axis that travels has 3 or 24
PEOPLE = 51  # of whom 11 are held out
RECIPE = f"""
[data]
validation = 0.25
[backbone]
depth = 4
embedding_dim = 16
[head]
annealing = [10.0, 0.12, 1.0, 5.0]
{{sampling}}
[optimizer]
learning_rate = 0.01
warmup = 2
[training]
steps = {STEPS}
batch_size = 8
checkpoint_steps = 3
"""
PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # importing it fails
import keras
from spherekeras.layers import margin_head
from spherekeras.training import train
if len(keras.distribution.list_devices()) == 1:
    margin_head.shards_of = lambda kernel: 8  # it draws classes as eight devices do
train(*sys.argv[1:], verbose=0)
assert keras.distribution.distribution() is None
from spherekeras import sharding
from spherekeras.recipe import Backbone, Recipe
from spherekeras.training import build_model
with sharding.over_devices(16):  # its last convolution is called "head" too
    small = build_model(Recipe("small", backbone=Backbone("MobileFaceNet")), 16)
shapes = [w.value.sharding.shard_shape(w.shape) for w in small.weights if "head/kernel" in w.path]
assert shapes == [(1, 1, 128, 512), (512, 16 // len(keras.distribution.list_devices()))], shapes
"""


@pytest.fixture(scope="module", params=["", f"sampling = {DRAWN / CLASSES}"])
def runs(tmp_path_factory: pytest.TempPathFactory, request: Any) -> pathlib.Path:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed, so training on several of its devices was not tried")
    root = tmp_path_factory.mktemp("sharding")
    write_drawn_crops(root / "crops", range(PEOPLE), 2)
    pack(root / "crops", root / "records")
    (root / "mine.toml").write_text(RECIPE.format(sampling=request.param))
    for devices in (1, 8):
        flags = [
            f"--xla_force_host_platform_device_count={devices}",
            "--xla_cpu_multi_thread_eigen=false",  # devices that wait would hold all threads
            f"--xla_dump_to={root}/hlo{devices} --xla_dump_hlo_as_text",
        ]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "mine.toml", "records", f"run{devices}"],
            cwd=root,
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": " ".join(flags),
            },
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_eight_devices_are_one(runs: pathlib.Path) -> None:
    one, eight = (np.load(runs / f"run{n}" / "checkpoint.npz") for n in (1, 8))
    assert len(one) == len(eight) > 10
    for mine, theirs in zip(sorted(one), sorted(eight), strict=True):
        np.testing.assert_allclose(eight[theirs], one[mine], atol=1e-6, err_msg=mine)


def test_no_class_weights_and_no_logits_travel(runs: pathlib.Path) -> None:
    """Reads the program that ran: what it gathers, and what a device computes."""
    (step,) = runs.glob("hlo8/*train_step*after_optimizations.txt")
    text = step.read_text()
    moved = re.findall(r"= (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    shapes = {shape for line in moved for shape in re.findall(r"\w+\[[\d,]*\]", line)}
    assert "f32[8,16]" in shapes  # the embeddings of the whole batch
    sampled = "sampling" in (runs / "mine.toml").read_text()
    share, columns = CLASSES // 8, 1 + DRAWN // 8 if sampled else CLASSES // 8
    assert f"f32[16,{share}]" in text and f"f32[8,{columns}]" in text  # its weights and logits
    for whole in (CLASSES, 8 * columns):
        assert f"f32[16,{whole}]" not in text and f"f32[8,{whole}]" not in text
    lengths = {int(n) for shape in shapes for n in re.findall(r"\d+", shape.split("[")[1])}
    assert not lengths & {share, columns, CLASSES, 8 * columns}


def test_one_processor_is_left_as_it_is() -> None:
    import keras

    with sharding.over_devices(10), sharding.apart():
        assert keras.distribution.distribution() is None
