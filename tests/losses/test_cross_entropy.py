"""CrossEntropy is Keras' own on `(batch, units)`, and reads sampled columns besides."""

import math
from typing import Any

import keras
import numpy as np
import pytest

from spherekeras.losses.cross_entropy import CrossEntropy
from spherekeras.losses.one_vs_all import OneVsAll
from spherekeras.losses.triplet import TripletLoss

BATCH, UNITS = 6, 5


def draw() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, UNITS, BATCH), rng.normal(size=(BATCH, UNITS)) * 3


def naive(labels: Any, logits: np.ndarray) -> list[float]:
    losses = []
    for label, row in zip(labels, logits, strict=True):
        losses.append(math.log(sum(math.exp(z) for z in row)) - row[label])
    return losses


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_it_is_that_of_keras(shape: tuple[int, ...], dtype: str) -> None:
    labels, logits = draw()
    given = labels.astype(dtype).reshape(shape)
    stock = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    found = float(CrossEntropy(dtype="float64")(given, logits))
    assert found == pytest.approx(float(stock(given, logits)), abs=1e-12)
    assert found == pytest.approx(np.mean(naive(labels, logits)), abs=1e-9)


@pytest.mark.parametrize(("shards", "columns"), [(1, BATCH), (1, BATCH + 3), (2, 9), (3, 7)])
def test_of_sampled_logits_each_row_owns_one_column(shards: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, 1000, BATCH), rng.normal(size=(BATCH, shards, columns, 1))
    each = math.ceil(BATCH / shards)  # rows whose own classes a shard's first columns hold
    own = [row // each * columns + row % each for row in range(BATCH)]
    expected = naive(own, logits.reshape(BATCH, -1))
    loss = CrossEntropy(reduction="none", dtype="float64")
    np.testing.assert_allclose(loss(labels, logits), expected, atol=1e-9)


def test_weight_and_sample_weights_multiply() -> None:
    labels, logits = draw()
    weights = np.arange(BATCH, dtype="float64")
    expected = 2.5 * np.mean(weights * naive(labels, logits))
    loss = CrossEntropy(weight=2.5, dtype="float64")
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, abs=1e-9)
    for reduction, total in (("sum", np.sum), ("mean_with_sample_weight", np.mean)):
        loss = CrossEntropy(2.5, reduction=reduction, dtype="float64")
        divisor = weights.mean() if total is np.mean else 1.0
        expected = 2.5 * total(weights * naive(labels, logits)) / divisor
        assert float(loss(labels, logits, weights)) == pytest.approx(expected, abs=1e-9)


def test_gradient_is_softmax_minus_one_hot() -> None:
    import tensorflow as tf

    labels, logits = draw()
    for given in (logits, logits[:, None, :, None]):
        own = labels if given.ndim == 2 else np.arange(BATCH) % UNITS
        z = tf.constant(given if given.ndim == 2 else given[:UNITS])
        rows = z.shape[0]
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = CrossEntropy(weight=3.0, dtype="float64")(labels[:rows], z)
        part = np.exp(logits[:rows]) / np.exp(logits[:rows]).sum(1, keepdims=True)
        expected = 3.0 * (part - np.eye(UNITS)[own[:rows]]) / rows
        found = np.reshape(tape.gradient(loss, z), expected.shape)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_half_logits_are_read_in_float32() -> None:
    labels, logits = draw()
    half = keras.ops.cast(logits, "bfloat16")
    found = CrossEntropy()(labels, half)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    exact = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(half, "float32")), "float64")
    assert float(found) == pytest.approx(np.mean(naive(labels, exact)), abs=1e-6)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
def test_a_weight_not_above_zero_is_told(weight: float) -> None:
    with pytest.raises(ValueError) as error:
        CrossEntropy(weight=weight)
    assert str(error.value) == f"`CrossEntropy` expects weight > 0. Received: weight={weight}."


def test_config_round_trip() -> None:
    loss = CrossEntropy(weight=0.5, name="own", reduction="sum")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is CrossEntropy and again.get_config() == loss.get_config()
    assert again.weight == 0.5 and again.reduction == "sum"


@pytest.mark.parametrize("floatx", ["bfloat16", "float16"])
def test_labels_keep_their_digits_whatever_floatx(floatx: str) -> None:
    labels = np.array([257, 2049])
    logits = np.zeros((2, 3000), "float32")
    logits[[0, 1], labels] = 20.0
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        losses = [CrossEntropy()(labels, logits), OneVsAll(alpha=0.5)(labels, logits - 10.0)]
        x = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]], "float32")
        triplet = TripletLoss(mining="hard")(np.array([2048, 2049, 2064]), x)
    finally:
        keras.config.set_floatx(before)
    assert 0 < float(losses[0]) < 1e-4 and 0 < float(losses[1]) < 0.1
    assert float(triplet) == 0.0  # three people: no pair is one person's
