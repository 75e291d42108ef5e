"""OneVsAll against a naive loop, where logits are huge, and in a training."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from spherekeras.losses.one_vs_all import OneVsAll

BATCH, UNITS = 6, 5


def draw() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, UNITS, BATCH), rng.normal(size=(BATCH, UNITS)) * 3


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def naive(labels: Any, logits: np.ndarray, alpha: float = 0.7, weight: float = 1.0) -> list[float]:
    losses = []
    for label, row in zip(labels, logits, strict=True):
        loss = 0.0
        for j, z in enumerate(row):
            loss += alpha * softplus(-z) if j == label else (1 - alpha) * softplus(z)
        losses.append(weight * loss)
    return losses


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_it_is_the_naive_loop(shape: tuple[int, ...], dtype: str) -> None:
    labels, logits = draw()
    for alpha, weight in ((0.7, 1.0), (0.2, 1.25)):
        loss = OneVsAll(alpha, weight, reduction="none", dtype="float64")
        found = loss(labels.astype(dtype).reshape(shape), logits)
        np.testing.assert_allclose(found, naive(labels, logits, alpha, weight), atol=1e-9)
    found = float(OneVsAll(dtype="float64")(labels, logits))
    assert found == pytest.approx(np.mean(naive(labels, logits)), abs=1e-9)


def test_sample_weights_multiply() -> None:
    labels, logits = draw()
    weights = np.arange(BATCH, dtype="float64")
    expected = np.mean(weights * naive(labels, logits))
    found = float(OneVsAll(dtype="float64")(labels, logits, weights))
    assert found == pytest.approx(expected, abs=1e-9)


def test_gradient_is_the_closed_form() -> None:
    import tensorflow as tf

    labels, logits = draw()
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = OneVsAll(0.6, 2.0, dtype="float64")(labels, z)
    sigmoid, own = 1 / (1 + np.exp(-logits)), np.eye(UNITS)[labels]
    expected = 2.0 / BATCH * np.where(own, 0.6 * (sigmoid - 1), 0.4 * sigmoid)
    np.testing.assert_allclose(tape.gradient(loss, z), expected, atol=1e-12)


@pytest.mark.parametrize("size", [30.0, 90.0, 500.0])
def test_huge_logits_are_exact_and_finite(size: float) -> None:
    import tensorflow as tf

    signs = np.array([[1, -1, 1, -1], [-1, 1, -1, 1], [1, -1, -1, -1]], "float32")
    labels, logits = np.array([0, 0, 0]), signs * np.float32(size)
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        losses = OneVsAll(reduction="none")(labels, z)
    expected = naive(labels, logits.astype("float64"))
    np.testing.assert_allclose(losses, expected, rtol=1e-6, atol=1e-4)
    gradient = np.where(np.eye(4)[labels], 0.7 * (signs < 0) * -1, 0.3 * (signs > 0))
    np.testing.assert_allclose(tape.gradient(losses, z), gradient, atol=1e-6)


def test_ten_thousand_classes_keep_their_digits_in_float32() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10_000, 4)
    logits = rng.uniform(-60, 60, (4, 10_000)).astype("float32")
    found = OneVsAll(reduction="none")(labels, logits)
    np.testing.assert_allclose(found, naive(labels, logits.astype("float64")), rtol=1e-6)


def test_one_class_alone_has_its_positive_part() -> None:
    found = float(OneVsAll(dtype="float64")(np.array([0]), np.array([[1.5]])))
    assert found == pytest.approx(0.7 * softplus(-1.5), abs=1e-12)


@pytest.mark.parametrize("label", [-1, UNITS])
def test_a_label_out_of_range_is_nan_by_row(label: int) -> None:
    labels, logits = draw()
    labels[2] = label
    found = OneVsAll(reduction="none", dtype="float64")(labels, logits)
    np.testing.assert_array_equal(np.isnan(found), np.arange(BATCH) == 2)


def test_half_logits_are_read_in_float32() -> None:
    labels, logits = draw()
    for dtype in ("bfloat16", "float16"):
        half = keras.ops.cast(logits, dtype)
        found = OneVsAll()(labels, half)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        exact = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(half, "float32")), "float64")
        assert float(found) == pytest.approx(np.mean(naive(labels, exact)), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: OneVsAll(alpha=1.0),
            "`OneVsAll` expects 0 < alpha < 1 and weight > 0. Received: alpha=1.0, weight=1.0.",
        ),
        (lambda: OneVsAll(alpha=0.0), "Received: alpha=0.0, weight=1.0."),
        (lambda: OneVsAll(weight=math.nan), "Received: alpha=0.7, weight=nan."),
        (
            lambda: OneVsAll()(np.eye(5), np.zeros((5, 5))),
            "`OneVsAll` expects integer labels of shape `(batch,)`. Received: shape=(5, 5). For "
            "one-hot labels pass `ops.argmax(labels, axis=-1)`.",
        ),
        (
            lambda: OneVsAll()(np.arange(2), np.zeros((2, 5, 1))),
            "`OneVsAll` expects logits of shape `(batch, units)`. Received: shape=(2, 5, 1).",
        ),
    ],
)
def test_bad_arguments_are_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_config_round_trip() -> None:
    loss = OneVsAll(0.8, 1.25, name="own", reduction="sum")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is OneVsAll and again.get_config() == loss.get_config()
    assert (again.alpha, again.weight, again.reduction) == (0.8, 1.25, "sum")


def test_fit_learns_compiled_or_not_and_saves(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(96) % 4
    x = (np.eye(4)[labels] * 2 + rng.normal(size=(96, 4)) * 0.3).astype("float32")
    kernels = []
    for jit in (True, False):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, None, True, "zeros")])
        model.compile(keras.optimizers.SGD(0.3), OneVsAll(), jit_compile=jit)
        model.fit(x, labels, batch_size=24, epochs=10, shuffle=False, verbose=0)
        logits = keras.ops.convert_to_numpy(model(x))
        assert (logits.argmax(axis=1) == labels).mean() > 0.95
        kernels.append(model.get_weights()[0])
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, labels, verbose=0) == model.evaluate(x, labels, verbose=0)
