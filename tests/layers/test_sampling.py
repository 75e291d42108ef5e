"""Partial FC: a sample of the classes stands for all in a training step."""

from typing import Any

import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras.layers.sampling import HIDDEN, run_of, sample_classes, weights_of
from spherekeras.losses.labels import own_columns

DIM, BATCH = 5, 6
LABELS = np.array([3, 17, 3, 0, 39, 17], np.int32)


def drawn_classes(
    units: int, count: int, seed: Any, shards: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The class of each column, and the mask; the columns of one shard after those of another."""
    runs, mask = (np.asarray(a) for a in sample_classes(LABELS, units, count, seed, shards))
    size = run_of(units // shards)
    assert runs.shape == (shards, max(1, round(count / shards / size)))
    own = np.pad(LABELS, (0, -BATCH % shards)).reshape(shards, -1)
    first = np.arange(shards)[:, None, None] * (units // shards)
    drawn = first + runs[:, :, None] * size + np.arange(size)
    classes = np.concatenate([own, drawn.reshape(shards, -1)], axis=1)
    assert mask.shape == (BATCH, *classes.shape)
    return classes.reshape(-1), mask.reshape(BATCH, -1)


@pytest.mark.parametrize(
    ("units", "count", "shards"),
    [
        *[(41, 8, 1), (41, 13, 1), (42, 12, 1), (40, 40, 1), (41, 41, 1), (40, 1, 1)],
        *[(1008, 96, 1), (42, 12, 2), (40, 40, 4), (40, 1, 8), (1008, 96, 3), (1008, 300, 7)],
    ],
)
def test_each_row_sees_its_class_once_and_no_class_twice(
    units: int, count: int, shards: int
) -> None:
    seed = keras.random.SeedGenerator(0)
    for _ in range(15):
        classes, mask = drawn_classes(units, count, seed, shards)
        own = own_columns(BATCH, shards, len(classes) // shards)
        assert classes.min() >= 0 and classes.max() < units
        for row in range(BATCH):
            seen = classes[~mask[row]]
            assert len(set(seen.tolist())) == len(seen)
            assert not mask[row, own[row]] and classes[own[row]] == LABELS[row]
            assert (seen == LABELS[row]).sum() == 1
            assert set(LABELS.tolist()) <= set(seen.tolist())
            assert set(seen.tolist()) == set(classes.tolist())


@pytest.mark.parametrize("shards", [1, 2])
def test_every_class_is_drawn_equally_often(shards: int) -> None:
    seed, times = keras.random.SeedGenerator(1), 400
    drawn = np.zeros((shards, 29))
    for _ in range(times):
        runs = np.asarray(sample_classes(LABELS[:1], 29 * shards, 7 * shards, seed, shards)[0])
        for shard, mine in enumerate(runs):
            drawn[shard] += np.bincount(mine, None, 29)
    np.testing.assert_allclose(drawn / times, 7 / 29, atol=4 * np.sqrt(7 / 29 / times))


@pytest.mark.parametrize(("units", "each"), [(48, 1), (48, 3), (41, 2)])
def test_picked_weights_and_their_gradient(units: int, each: int) -> None:
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernel = tf.constant(random.normal(size=(3, units * each)))
    runs = np.array([[2, 0]], np.int32)
    size = run_of(units)
    classes = [*LABELS, *(run * size + i for run in runs[0] for i in range(size))]
    columns = [c * each + k for c in classes for k in range(each)]
    weights = random.normal(size=(3, len(columns)))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        picked = weights_of(kernel, tf.constant(LABELS), tf.constant(runs), units)
        loss = tf.reduce_sum(picked * weights)
    np.testing.assert_array_equal(picked, kernel.numpy()[:, columns])
    wanted = np.zeros(kernel.shape)
    for i, column in enumerate(columns):
        wanted[:, column] += weights[:, i]
    np.testing.assert_allclose(tape.gradient(loss, kernel), wanted, atol=1e-12)


HEADS: dict[str, Any] = {
    "ASoftmax": lambda **k: sk.layers.ASoftmax(40, annealing=None, **k),
    "ASoftmax caffe": lambda **k: sk.layers.ASoftmax(40, gradient="caffe", **k),
    "LSoftmax": lambda **k: sk.layers.LSoftmax(40, **k),
    "ArcFace": lambda **k: sk.layers.ArcFace(40, **k),
    "SphereFaceR v2": lambda **k: sk.layers.SphereFaceR(40, 1.4, "v2", **k),
    "SphereFacePlus": lambda **k: sk.layers.SphereFacePlus(40, **k),
    "CurricularFace": lambda **k: sk.layers.CurricularFace(40, **k),
    "SubCenterArcFace": lambda **k: sk.layers.SubCenterArcFace(40, 2, **k),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_sample_of_all_classes_has_the_loss_and_gradient_of_all(name: str) -> None:
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(BATCH, DIM))
    whole, sampled = HEADS[name](dtype="float64"), HEADS[name](sampling=1.0, dtype="float64")
    whole(x), sampled(x)
    sampled.kernel.assign(whole.kernel)
    loss_of = whole.loss()  # in float32, too coarse for a comparison of float64 heads
    loss_of = type(loss_of).from_config({**loss_of.get_config(), "dtype": "float64"})
    results = []
    for head in (whole, sampled):
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(x)
            tape.watch(value)
            loss = loss_of(LABELS, head(value, LABELS, training=True))
        results.append([loss, *tape.gradient(loss, [value, head.kernel.value])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-10)


def test_the_logits_of_a_sample_are_those_of_the_drawn_classes() -> None:
    x = np.random.default_rng(0).normal(size=(BATCH, DIM)).astype("float32")
    head = sk.layers.ArcFace(40, sampling=0.25)
    head(x)
    logits = np.asarray(head(x, LABELS, training=True))
    assert logits.shape == (BATCH, 1, BATCH + 8, 1)  # one run of 8
    logits = logits[:, 0]
    full = np.asarray(head(x, LABELS))
    assert full.shape == (BATCH, 40)
    np.testing.assert_allclose(logits[range(BATCH), range(BATCH), 0], full[range(BATCH), LABELS])
    for row in range(BATCH):
        shown = logits[row][logits[row] > HIDDEN]
        assert np.isclose(full[row][:, None], shown[None, :], atol=1e-4).any(axis=0).all()


def test_a_stock_loss_refuses_the_logits_of_a_sample() -> None:
    model = sk.Sequential([keras.layers.Dense(DIM), sk.layers.ArcFace(40, sampling=0.5)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="rank|shape"):
        model.fit(np.ones((BATCH, 3), "float32"), LABELS, verbose=0)


@pytest.mark.parametrize("jit", [False, True])
def test_a_sampled_head_learns_evaluates_and_predicts_over_all_classes(jit: bool) -> None:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    labels = np.arange(400) % 40
    images = random.normal(size=(40, 12))[labels] + 0.1 * random.normal(size=(400, 12))
    head = sk.layers.CosFace(40, margin=0.2, scale=16.0, sampling=0.2)
    model = sk.Sequential([keras.layers.Dense(16), head])
    model.compile(keras.optimizers.Adam(0.01), head.loss(), jit_compile=jit)
    model.fit(images, labels, batch_size=50, epochs=12, verbose=0)
    assert (model.predict(images, verbose=0).argmax(axis=1) == labels).mean() > 0.95
    assert np.isfinite(model.evaluate(images, labels, verbose=0))
    assert int(head.step) == 96
