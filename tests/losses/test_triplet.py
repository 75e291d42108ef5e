"""TripletLoss against naive loops over triplets, at its ends, and as a backbone's only loss."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from spherekeras.losses.triplet import TripletLoss

BATCH, DIM = 9, 3
MINING = ("semi-hard", "hard", "all")
each = pytest.mark.parametrize("mining", MINING)


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of one identity three pictures, of two two, of two one."""
    rng = np.random.default_rng(seed)
    return np.array([7, 3, 7, 900, 3, 5, 7, 5, 11]), rng.normal(size=(BATCH, DIM)) * 4


def naive(labels: Any, x: np.ndarray, mining: str, margin: float) -> list[float]:
    units = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in x]
    rows = range(len(units))

    def square(i: int, j: int) -> float:
        return sum((a - b) ** 2 for a, b in zip(units[i], units[j], strict=True))

    losses = []
    for a in rows:
        positives = [square(a, i) for i in rows if labels[i] == labels[a] and i != a]
        negatives = [square(a, i) for i in rows if labels[i] != labels[a]]
        pairs: list[tuple[float, float]] = []
        if positives and negatives and mining == "hard":
            pairs = [(max(positives), min(negatives))]
        for p in positives if negatives else []:
            if mining == "semi-hard":
                farther = [n for n in negatives if n > p]
                pairs.append((p, min(farther) if farther else max(negatives)))
            if mining == "all":
                pairs += [(p, n) for n in negatives]
        terms = [max(0.0, p - n + margin) for p, n in pairs]
        losses.append(sum(terms) / max(len(terms), 1))
    return losses


def gradient(loss: Any, labels: Any, x: Any) -> tuple[float, np.ndarray]:
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    return float(value), tape.gradient(value, x).numpy()


@each
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_it_is_the_naive_loop(mining: str, margin: float) -> None:
    for seed in range(5):
        labels, x = draw(seed)
        expected = naive(labels, x, mining, margin)
        assert sum(expected) > 0
        loss = TripletLoss(margin, mining, reduction="none", dtype="float64")
        np.testing.assert_allclose(loss(labels, x), expected, atol=1e-9)
        np.testing.assert_allclose(loss(labels[:, None].astype("uint16"), 7 * x), expected)
        single = TripletLoss(margin, mining, reduction="none")(labels, x.astype("float32"))
        np.testing.assert_allclose(single, expected, atol=1e-5)
        weights = np.arange(BATCH, dtype="float64")
        mean = float(TripletLoss(margin, mining, dtype="float64")(labels, x, weights))
        assert mean == pytest.approx(np.mean(weights * expected), abs=1e-9)


@each
def test_gradient_is_the_numeric_one(mining: str) -> None:
    labels, x = draw()
    loss = TripletLoss(0.7, mining, dtype="float64")
    _, found = gradient(loss, labels, x)
    assert np.abs(found).max() > 1e-3
    for index in np.ndindex(*x.shape):
        ends = []
        for step in (1e-5, -1e-5):
            shifted = x.copy()
            shifted[index] += step
            ends.append(np.mean(naive(labels, shifted, mining, 0.7)))
        assert found[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)


def test_semi_hard_takes_the_nearest_that_is_farther_or_else_the_farthest() -> None:
    def at(*degrees: float) -> np.ndarray:
        return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    def square(degrees: float) -> float:
        return 2 - 2 * math.cos(math.radians(degrees))

    loss = TripletLoss(0.5, reduction="none", dtype="float64")
    found = loss(np.array([0, 0, 1, 2, 3]), at(0, 40, -20, -45, -90))[0]
    assert float(found) == pytest.approx(square(40) - square(45) + 0.5)
    found = loss(np.array([0, 0, 1, 2]), at(0, 90, -20, -45))[0]
    assert float(found) == pytest.approx(square(90) - square(45) + 0.5)


@each
@pytest.mark.parametrize("labels", [[4, 4, 4], [0, 1, 2], [6]])
def test_a_batch_without_a_triplet_has_loss_and_gradient_zero(
    mining: str, labels: list[int]
) -> None:
    x = draw()[1][: len(labels)].astype("float32")
    value, found = gradient(TripletLoss(mining=mining), np.array(labels), x)
    assert value == 0.0
    np.testing.assert_array_equal(found, np.zeros_like(x))


@each
@pytest.mark.parametrize("value", [0.0, 1e-30, 2.0, 1e4])
def test_equal_embeddings_cost_the_margin_with_a_finite_gradient(mining: str, value: float) -> None:
    loss, found = gradient(
        TripletLoss(0.3, mining), np.array([1, 1, 2, 2]), np.full((4, 8), value, "float32")
    )
    assert loss == pytest.approx(0.3, abs=1e-5)
    assert np.isfinite(found).all()


@each
def test_a_nan_is_not_hidden(mining: str) -> None:
    labels, x = draw()
    x[0, 0] = math.nan
    assert math.isnan(float(TripletLoss(mining=mining)(labels, x)))


@each
def test_half_embeddings_are_read_in_float32(mining: str) -> None:
    labels, x = draw()
    for dtype in ("bfloat16", "float16"):
        half = keras.ops.cast(x, dtype)
        found = TripletLoss(1.0, mining)(labels, half)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        exact = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(half, "float32")), "float64")
        expected = np.mean(naive(labels, exact, mining, 1.0))
        assert float(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: TripletLoss(margin=0.0),
            "`TripletLoss` expects margin > 0 and mining 'semi-hard', 'hard' or 'all'. Received: "
            "margin=0.0, mining='semi-hard'.",
        ),
        (lambda: TripletLoss(margin=math.nan), "Received: margin=nan, mining='semi-hard'."),
        (lambda: TripletLoss(mining="easy"), "Received: margin=0.2, mining='easy'."),
        (
            lambda: TripletLoss()(np.eye(4), np.ones((4, 2))),
            "`TripletLoss` expects integer labels of shape `(batch,)`. Received: shape=(4, 4). "
            "For one-hot labels pass `ops.argmax(labels, axis=-1)`.",
        ),
        (
            lambda: TripletLoss()(np.arange(2), np.ones((2, 3, 4))),
            "`TripletLoss` expects embeddings of shape `(batch, dim)`. Received: shape=(2, 3, 4).",
        ),
    ],
)
def test_bad_arguments_are_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_config_round_trip() -> None:
    loss = TripletLoss(0.4, "hard", name="own", reduction="sum")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is TripletLoss and again.get_config() == loss.get_config()
    assert (again.margin, again.mining, again.reduction) == (0.4, "hard", "sum")


def spread(backbone: Any, x: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance within identities over the mean distance of all."""
    embedding = keras.utils.normalize(keras.ops.convert_to_numpy(backbone(x)))
    distance = 1 - embedding @ embedding.T
    return float(distance[labels[:, None] == labels].mean() / distance.mean())


def trained(mining: str, jit: bool) -> tuple[Any, np.ndarray, np.ndarray]:
    labels = np.arange(96) % 4
    noise = np.random.default_rng(5).normal(size=(96, 6))
    x = (np.eye(4, 6)[labels] + 0.4 * noise).astype("float32")
    keras.utils.set_random_seed(1)
    backbone = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    backbone.compile(keras.optimizers.SGD(0.3), TripletLoss(0.5, mining), jit_compile=jit)
    before = spread(backbone, x, labels)
    backbone.fit(x, labels, batch_size=24, epochs=10, shuffle=False, verbose=0)
    assert spread(backbone, x, labels) < 0.7 * before
    return backbone, x, labels


@each
def test_a_backbone_compiled_with_it_learns_by_xla_or_not(mining: str) -> None:
    plain, compiled = (trained(mining, jit)[0].get_weights()[0] for jit in (False, True))
    np.testing.assert_allclose(compiled, plain, atol=1e-4)


def test_a_backbone_saves_with_it(tmp_path: pathlib.Path) -> None:
    backbone, x, labels = trained("hard", jit=False)
    backbone.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    assert again.loss.get_config() == backbone.loss.get_config()
    loss = backbone.evaluate(x, labels, verbose=0)
    assert again.evaluate(x, labels, verbose=0) == pytest.approx(loss, abs=1e-6)
