"""Gradient descent against a plain loop, on every backend that is installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import spherekeras as sk

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(6, 4, 3)).astype("float32")  # six steps of four rows
TARGETS = RANDOM.normal(size=(6, 4, 2)).astype("float32")
KERNEL = RANDOM.normal(size=(3, 2)).astype("float32")
SETTINGS = [
    {"momentum": 0.9, "coupled_weight_decay": 0.3},
    {"momentum": 0.9},
    {"coupled_weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True, "coupled_weight_decay": 0.3},
    {"momentum": 0.9, "coupled_weight_decay": 0.3, "global_clipnorm": 0.5},
]


def rate(step: int) -> float:
    return 0.1 if step < 3 else 0.01


def schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])


def by_hand(setting: dict) -> np.ndarray:
    """The same in float64: mean squared error of a linear layer, its gradient written out."""
    weights, velocity = KERNEL.astype(float), np.zeros((3, 2))
    decay, momentum = setting.get("coupled_weight_decay", 0.0), setting.get("momentum", 0.0)
    for step in range(6):
        x, y = IMAGES[step].astype(float), TARGETS[step].astype(float)
        gradient = 2 * x.T @ (x @ weights - y) / y.size
        if "global_clipnorm" in setting:
            gradient *= min(1, setting["global_clipnorm"] / np.sqrt((gradient**2).sum()))
        gradient += decay * weights
        velocity = momentum * velocity - rate(step) * gradient
        ahead = momentum * velocity - rate(step) * gradient
        weights = weights + (ahead if setting.get("nesterov") else velocity)
    return weights


def trained(setting: dict, jit: bool) -> keras.Model:
    layer = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.set_weights([KERNEL])
    model.compile(sk.optimizers.SGD(schedule(), **setting), "mse", jit_compile=jit)
    for step in range(6):
        model.train_on_batch(IMAGES[step], TARGETS[step])
    return model


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
import spherekeras as sk
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
random = np.random.default_rng(0)
x, y = (random.normal(size=(48, n)).astype("float32") for n in (3, 2))
kernel, found = random.normal(size=(3, 2)), {}
for kind, name, limit in json.loads(sys.argv[1]):
    for strategy in (tf.distribute.get_strategy(), two):
        with strategy.scope():
            unused = keras.layers.Dense(1, name="unused")  # its gradient is None
            layers = [keras.layers.Dense(2, use_bias=False), keras.layers.Dense(2)]
            image = keras.Input((3,))
            kernels = keras.Sequential(layers)(image)
            model = keras.Model(image, [kernels, unused(image)])
            model.set_weights([kernel, np.eye(2), *model.get_weights()[2:]])
            optimizer = getattr(sk.optimizers, kind)(0.05, **{name: limit})
            model.compile(optimizer, ["mse", None], jit_compile=False)
        model.fit(x, [y, y[:, :1]], batch_size=12, epochs=2, shuffle=False, verbose=0)
        weights = np.concatenate([np.ravel(w) for w in model.get_weights()[:3]])
        found.setdefault(f"{kind} {name} {limit}", []).append(weights.tolist())
print(json.dumps(found))
"""


def test_two_replicas_limit_what_one_device_limits() -> None:
    limits = [("clipnorm", 0.2), ("global_clipnorm", 0.2), ("clipvalue", 0.1), ("clipnorm", None)]
    cases = [(kind, *limit) for kind in ("SGD", "AdamW") for limit in limits]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REPLICAS, json.dumps(cases)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for case, (one, two) in found.items():
        np.testing.assert_allclose(two, one, atol=1e-6, err_msg=case)
    unlimited, *limited = (found[f"SGD {name} {limit}"][0] for name, limit in limits[::-1])
    assert all(np.abs(np.subtract(weights, unlimited)).max() > 0.01 for weights in limited)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("jit", [False, True])
def test_it_takes_the_steps_of_a_plain_loop(setting: dict, jit: bool) -> None:
    model, wanted = trained(setting, jit), by_hand(setting)
    np.testing.assert_allclose(model.get_weights()[0], wanted, atol=1e-6)
    assert np.abs(wanted - KERNEL).max() > 0.05


OTHERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_optimizers as t
print(json.dumps([t.trained(setting, False).get_weights()[0].tolist() for setting in t.SETTINGS]))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_take_the_same_steps(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so its steps were not compared")
    done = subprocess.run(
        [sys.executable, "-c", OTHERS, str(pathlib.Path(__file__).parent)],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for setting, weights in zip(SETTINGS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        np.testing.assert_allclose(weights, by_hand(setting), atol=1e-6, err_msg=str(setting))


def test_without_decay_it_is_keras_own() -> None:
    ours = trained({"momentum": 0.9}, False).get_weights()[0]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([KERNEL])
    model.compile(keras.optimizers.SGD(schedule(), 0.9), "mse", jit_compile=False)
    for step in range(6):
        model.train_on_batch(IMAGES[step], TARGETS[step])
    np.testing.assert_allclose(ours, model.get_weights()[0], atol=1e-7)


def test_half_precision_weights(tmp_path: pathlib.Path) -> None:
    layer = keras.layers.Dense(2, use_bias=False, dtype="bfloat16")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.set_weights([KERNEL])
    model.compile(sk.optimizers.SGD(0.1, 0.9, coupled_weight_decay=0.1), "mse")
    before = np.array(keras.ops.cast(layer.kernel, "float32"))
    model.train_on_batch(IMAGES[0], TARGETS[0])
    after = np.array(keras.ops.cast(layer.kernel, "float32"))
    assert np.isfinite(after).all() and np.abs(after - before).max() > 0.01


def test_it_is_saved_and_goes_on(tmp_path: pathlib.Path) -> None:
    model = trained({"momentum": 0.9, "coupled_weight_decay": 0.3}, False)
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert type(again.optimizer) is sk.optimizers.SGD
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, again):
        one.train_on_batch(IMAGES[0], TARGETS[0])
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_a_decay_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"coupled_weight_decay >= 0\. Received: .*=-0.1"):
        sk.optimizers.SGD(coupled_weight_decay=-0.1)
