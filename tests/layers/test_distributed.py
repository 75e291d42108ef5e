"""Heads on two replicas: one process at the same global batch, to rounding."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, spherekeras as sk
HEADS = {
    "ASoftmax": lambda: sk.layers.ASoftmax(8),
    "ASoftmax caffe": lambda: sk.layers.ASoftmax(8, gradient="caffe"),
    "ASoftmax sampling": lambda: sk.layers.ASoftmax(8, sampling=1.0),
    "ArcFace ramp": lambda: sk.layers.ArcFace(8, scale=8.0, ramp=(2, 6)),
    "CurricularFace": lambda: sk.layers.CurricularFace(8, scale=8.0),
    "SphereFaceR soft": lambda: sk.layers.SphereFaceR(8, 1.4, "v1", "soft", scale=4.0),
    "SphereFace2": lambda: sk.layers.SphereFace2(8, scale=8.0),
    "SoftmaxLinear": lambda: sk.layers.SoftmaxLinear(8),
}
random = np.random.default_rng(0)
x, y = random.normal(size=(48, 6)).astype("float32"), random.integers(0, 8, 48)
found, two = {}, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name, make in HEADS.items():
    for which, strategy in (
        ("one", tf.distribute.get_strategy()),
        ("two", two),  # one for all: the collectives of several in a process are mixed up
    ):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = sk.Sequential([keras.Input((6,)), keras.layers.Dense(5), make()])
            model.compile(keras.optimizers.SGD(0.02, momentum=0.9), model.layers[-1].loss())
        model.fit(x, y, batch_size=12, epochs=2, shuffle=False, verbose=0)
        model.evaluate(x, y, batch_size=12, verbose=0)
        found[f"{name}/{which}"] = {
            f"{i} {w.name}": np.asarray(w).ravel().tolist()
            for i, w in enumerate(model.weights)
            if "seed" not in w.name
        }
ragged = {
    "CurricularFace": lambda: sk.layers.CurricularFace(8, scale=8.0),
    "AdaFace": lambda: sk.layers.AdaFace(8, scale=8.0),
    "MagFace": lambda: sk.layers.MagFace(8, scale=8.0),
    "SphereFaceR soft": lambda: sk.layers.SphereFaceR(8, 1.4, "v1", "soft", scale=4.0),
    "CenterLoss": lambda: sk.layers.CenterLoss(8),
}
data = tf.data.Dataset.from_tensor_slices((x[:26], y[:26])).batch(12)  # at last 2: one has none
for name, make in ragged.items():
    with two.scope():
        model = sk.Sequential([keras.Input((6,)), keras.layers.Dense(5), make()])
        model.compile(keras.optimizers.SGD(0.02), model.layers[-1].loss())
    losses = model.fit(data, epochs=2, verbose=0).history["loss"]
    states = [np.asarray(w).ravel().tolist() for w in model.weights if "seed" not in w.name]
    found[f"ragged {name}"] = {"losses": losses, "states": sum(states, [])}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, list[float]]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "name",
    [
        "ASoftmax",
        "ASoftmax caffe",
        "ASoftmax sampling",
        "ArcFace ramp",
        "CurricularFace",
        "SphereFaceR soft",
        "SphereFace2",
        "SoftmaxLinear",
    ],
)
def test_two_replicas_are_one_device(found: dict[str, dict[str, list[float]]], name: str) -> None:
    one, two = found[f"{name}/one"], found[f"{name}/two"]
    assert set(one) == set(two)
    # CurricularFace's t is moved by each replica's own part of the batch, and averaged afterwards.
    tolerance = 2e-3 if name == "CurricularFace" else 2e-6
    for key, values in one.items():
        np.testing.assert_allclose(
            two[key], values, rtol=0, atol=tolerance, err_msg=f"{name} {key}"
        )
    steps = [values for key, values in two.items() if key.endswith(" step")]
    assert steps == ([] if name == "SoftmaxLinear" else [[8]])


@pytest.mark.parametrize(
    "name", ["CurricularFace", "AdaFace", "MagFace", "SphereFaceR soft", "CenterLoss"]
)
def test_a_replica_without_a_row_leaves_no_trace(
    found: dict[str, dict[str, list[float]]], name: str
) -> None:
    ragged = found[f"ragged {name}"]
    assert np.isfinite(ragged["losses"]).all() and len(ragged["losses"]) == 2
    assert np.isfinite(ragged["states"]).all() and len(ragged["states"]) > 60
