"""Every head through the same checks: values, gradients, labels, configs, precision."""

import math
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import spherekeras as sk

UNITS, DIM, BATCH = 7, 5, 6
HEADS: dict[str, Any] = {
    "ASoftmax": lambda **k: sk.layers.ASoftmax(UNITS, annealing=None, **k),
    "ASoftmax m=2": lambda **k: sk.layers.ASoftmax(UNITS, margin=2, annealing=None, **k),
    "ASoftmax m=1.5": lambda **k: sk.layers.ASoftmax(UNITS, margin=1.5, annealing=None, **k),
    "ASoftmax annealed": lambda **k: sk.layers.ASoftmax(UNITS, **k),
    "LSoftmax": lambda **k: sk.layers.LSoftmax(UNITS, margin=3, annealing=None, **k),
    "SphereFacePlus": lambda **k: sk.layers.SphereFacePlus(UNITS, energy=0.5, **k),
    "SphereFaceR v0 hard": lambda **k: sk.layers.SphereFaceR(UNITS, 1.7, "v0", scale=64.0, **k),
    "SphereFaceR v1 soft": lambda **k: sk.layers.SphereFaceR(UNITS, 1.4, "v1", "soft", **k),
    "SphereFaceR v2 hard": lambda **k: sk.layers.SphereFaceR(UNITS, 1.4, "v2", scale=60.0, **k),
    "SphereFaceR v2 none": lambda **k: sk.layers.SphereFaceR(UNITS, 1.4, "v2", "none", **k),
    "NormFace": lambda **k: sk.layers.NormFace(UNITS, **k),
    "CosFace": lambda **k: sk.layers.CosFace(UNITS, **k),
    "ArcFace": lambda **k: sk.layers.ArcFace(UNITS, **k),
    "ArcFace linear": lambda **k: sk.layers.ArcFace(UNITS, beyond="linear", **k),
    "MarginLinear": lambda **k: sk.layers.MarginLinear(UNITS, **k),
    "MarginLinear combined": lambda **k: sk.layers.MarginLinear(UNITS, 1.2, 0.3, 0.2, 30.0, **k),
    "MarginLinear CosFace": lambda **k: sk.layers.MarginLinear(UNITS, m2=0.0, m3=0.35, **k),
    "CurricularFace": lambda **k: sk.layers.CurricularFace(UNITS, **k),
    "MagFace": lambda **k: sk.layers.MagFace(UNITS, lengths=(1.0, 4.0), **k),
    "AdaFace": lambda **k: sk.layers.AdaFace(UNITS, **k),
    "ElasticFace arc": lambda **k: sk.layers.ElasticFace(UNITS, **k),
    "ElasticFace cos": lambda **k: sk.layers.ElasticFace(UNITS, form="cos", **k),
    "SubCenterArcFace": lambda **k: sk.layers.SubCenterArcFace(UNITS, 3, **k),
    "SphereFace2": lambda **k: sk.layers.SphereFace2(UNITS, **k),
    "ArcFace on a ramp": lambda **k: sk.layers.ArcFace(UNITS, ramp=(0, 4), **k),
}
# Heads whose formula is not the plain one in these respects.
JUMPS = {"ArcFace linear", "CurricularFace"}  # rises by design past π - m


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Class weights of a bad draw, nearly of length 0 or tied, are another test's matter."""
    keras.utils.set_random_seed(0)


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, DIM)), rng.integers(0, UNITS, BATCH)


def naive_cosine(x: np.ndarray, w: np.ndarray) -> float:
    return sum(a * b for a, b in zip(x, w, strict=True)) / (
        math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in w))
    )


def fallen(theta: float) -> float:
    """The cosine that goes on falling past π."""
    k = math.floor(theta / math.pi)
    return (-1) ** k * math.cos(theta) - 2 * k


def spread(head: Any, cosine: float) -> float:
    return 2 * ((cosine + 1) / 2) ** head.power - 1


def naive_target(head: Any, cosine: float, norm: float) -> float:
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    layers = sk.layers
    if isinstance(head, layers.SphereFace2):
        return spread(head, cosine) - head.margin
    if isinstance(head, layers.ASoftmax):
        weight = head.annealing_lambda()
        return (weight * cosine + fallen(head.margin * theta)) / (1 + weight)
    if isinstance(head, layers.SphereFaceR):
        turned = head.margin * theta
        v1 = math.cos(min(turned, math.pi))
        return {"v0": fallen(turned), "v1": v1, "v2": cosine}[head.version]
    if isinstance(head, layers.MarginLinear):
        return fallen(head.m1 * theta + head.m2) - head.m3
    if isinstance(head, layers.CosFace):
        return cosine - head.margin
    if isinstance(head, layers.NormFace):
        return cosine
    if isinstance(head, layers.AdaFace):
        length = min(max(norm, 1e-3), 100.0)
        quality = head.concentration * (length - float(head.mean.numpy()))
        quality = max(-1.0, min(1.0, quality / (float(head.std.numpy()) + 1e-3)))
        turned = min(max(theta - head.margin * quality, 0.0), math.pi)
        return math.cos(turned) - (head.margin + head.margin * quality)
    margin = head.margin
    if isinstance(head, layers.ElasticFace) and head.form == "cos":
        return cosine - margin
    if isinstance(head, layers.MagFace):
        low, high = head.lengths
        share = (min(max(norm, low), high) - low) / (high - low)
        margin = head.margins[0] + share * (head.margins[1] - head.margins[0])
    if head.beyond == "linear" and theta + margin > math.pi:
        return cosine - margin * math.sin(margin)
    return fallen(theta + margin)


def naive_other(head: Any, cosine: float, own: float, norm: float) -> float:
    if isinstance(head, sk.layers.SphereFaceR) and head.version == "v2":
        return math.cos(math.acos(cosine) / head.margin)
    if isinstance(head, sk.layers.SphereFace2):
        return spread(head, cosine) + head.margin
    if isinstance(head, sk.layers.CurricularFace):
        hard = cosine > math.cos(math.acos(max(-1.0, min(1.0, own))) + head.margin)
        return cosine * (float(head.t.numpy()) + cosine) if hard else cosine
    return cosine


def naive_logits(head: Any, x: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    kernel = keras.ops.convert_to_numpy(head.kernel).astype(np.float64)
    centers = getattr(head, "centers", 1)
    free = isinstance(head, sk.layers.ASoftmax) or getattr(head, "normalization", "hard") != "hard"
    logits = np.zeros((len(x), UNITS))
    for i, row in enumerate(x):
        norm = math.sqrt(sum(a * a for a in row))
        cosines = [
            max(naive_cosine(row, kernel[:, j * centers + k]) for k in range(centers))
            for j in range(UNITS)
        ]
        for j, cosine in enumerate(cosines):
            scale = norm if free else head.scale
            if isinstance(head, sk.layers.LSoftmax):
                scale *= math.sqrt(sum(b * b for b in kernel[:, j]))
            value = spread(head, cosine) if isinstance(head, sk.layers.SphereFace2) else cosine
            if labels is not None:
                own = cosines[labels[i]]
                mine = labels[i] == j
                value = (
                    naive_target(head, cosine, norm)
                    if mine
                    else naive_other(head, cosine, own, norm)
                )
            if labels is not None and head.ramp is not None:
                begin, end = head.ramp
                share = (int(head.step) - begin) / (end - begin)
                value = cosine + min(max(share, 0.0), 1.0) * (value - cosine)
            logits[i, j] = scale * value + float(head.bias if hasattr(head, "bias") else 0.0)
    return logits


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_logits_are_the_naive_loop(name: str, gradient: str) -> None:
    head = HEADS[name](gradient=gradient, dtype="float64")
    x, labels = draw()
    np.testing.assert_allclose(head(x, labels), naive_logits(head, x, labels), atol=1e-6)
    np.testing.assert_allclose(head(x), naive_logits(head, x, None), atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("run", ["eagerly", "as a graph"])  # whose passes are compiled
def test_exact_gradient_is_the_numeric_one(name: str, run: str) -> None:
    import tensorflow as tf

    head = HEADS[name](dtype="float64", gradient="exact")
    x, labels = draw(1)
    weights = np.random.default_rng(2).normal(size=(BATCH, UNITS))
    head(x)

    def gradients(value: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = tf.reduce_sum(head(value, labels) * weights)
        return tape.gradient(loss, [value, head.kernel.value])

    gradients = gradients if run == "eagerly" else tf.function(gradients)
    by_x, by_kernel = gradients(tf.convert_to_tensor(x))

    def at(x: np.ndarray, kernel: np.ndarray) -> float:
        head.kernel.assign(kernel)
        return float((keras.ops.convert_to_numpy(head(x, labels)) * weights).sum())

    kernel = keras.ops.convert_to_numpy(head.kernel).copy()
    checks = [(by_x, 0), (by_kernel, 1)]
    if name == "AdaFace":  # by definition no gradient flows through the length of x
        checks = checks[1:]
    for analytic, which in checks:
        point = (x, kernel)[which]
        for index in np.ndindex(*point.shape):
            step = np.zeros_like(point)
            step[index] = 1e-6
            high = at(*((x + step, kernel) if which == 0 else (x, kernel + step)))
            low = at(*((x - step, kernel) if which == 0 else (x, kernel - step)))
            assert float(analytic[index]) == pytest.approx((high - low) / 2e-6, abs=2e-5)


def test_detached_gradient_is_that_of_the_plain_cosine() -> None:
    import tensorflow as tf

    x, labels = draw(3)
    head = sk.layers.ASoftmax(UNITS, annealing=None, gradient="detached", dtype="float64")
    head(x)
    value = tf.convert_to_tensor(x)
    # The own logit ‖x‖·(c + const): d/dx = x/‖x‖·const + the plain dense gradient.
    with tf.GradientTape() as tape:
        tape.watch(value)
        own = tf.gather(head(value, labels), labels, axis=1, batch_dims=1)
        total = tf.reduce_sum(own)
    got = tape.gradient(total, value).numpy()
    kernel = head.kernel.numpy() / np.linalg.norm(head.kernel.numpy(), axis=0)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    cosine = np.sum(x / norm * kernel[:, labels].T, axis=1, keepdims=True)
    psi = np.array([[naive_target(head, float(c), 1.0)] for c in cosine[:, 0]])
    np.testing.assert_allclose(got, kernel[:, labels].T + (psi - cosine) * x / norm, atol=1e-9)


@pytest.mark.parametrize("ramp", [None, (0, 4)])
def test_detached_others_have_the_gradient_of_the_plain_cosine(ramp: Any) -> None:
    """SphereFace-R v2 as its authors train it: the whole change is a constant to the gradient."""
    import tensorflow as tf

    x, labels = draw(3)
    head = sk.layers.SphereFaceR(UNITS, 1.4, "v2", scale=3.0, ramp=ramp, dtype="float64")
    head(x)
    head.step.assign(1)
    weights = np.random.default_rng(5).normal(size=(len(x), UNITS))
    value = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(value)
        logits = head(value, labels)
        total = tf.reduce_sum(logits * weights)
    by_x, by_kernel = tape.gradient(total, [value, head.kernel.value])
    kernel = head.kernel.numpy()
    length, norm = np.linalg.norm(kernel, axis=0), np.linalg.norm(x, axis=1, keepdims=True)
    unit, rows = kernel / length, x / norm
    cosines = rows @ unit
    others = np.cos(np.arccos(cosines) / 1.4)
    r = 1.0 if ramp is None else 0.25
    wanted = np.where(np.arange(UNITS) == labels[:, None], cosines, (1 - r) * cosines + r * others)
    np.testing.assert_allclose(logits, 3 * wanted, atol=1e-9)
    # d/dx of 3·Σ w·cos: the part of 3·w·unit at a right angle to x, over ‖x‖; d/dW alike.
    plain = 3 * weights @ unit.T
    plain = (plain - np.sum(plain * rows, axis=1, keepdims=True) * rows) / norm
    np.testing.assert_allclose(by_x, plain, atol=1e-9)
    plain = 3 * rows.T @ weights
    plain = (plain - np.sum(plain * unit, axis=0) * unit) / length
    np.testing.assert_allclose(by_kernel, plain, atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_finite_at_the_ends_and_joints(name: str) -> None:
    import tensorflow as tf

    head = HEADS[name]()
    head.build((None, 2))
    kernel = np.zeros((2, head.columns), np.float32)
    kernel[0] = 1.0
    head.kernel.assign(kernel)
    theta = np.concatenate([[0.0, math.pi], np.pi / 4 * np.arange(5), np.pi / 3 * np.arange(4)])
    x = tf.constant(3 * np.stack([np.cos(theta), np.sin(theta)], 1), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = head(x, np.zeros(len(theta), int))
        loss = tf.reduce_sum(logits)
    gradients = tape.gradient(loss, [x, head.kernel.value])
    assert np.isfinite(logits).all()
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sk.layers.LSoftmax(UNITS, 1),
        lambda: sk.layers.SphereFacePlus(UNITS, margin=1),
        *(
            lambda v=v, n=n: sk.layers.SphereFaceR(UNITS, 1.0, v, n)
            for v in ("v0", "v1", "v2")
            for n in ("none", "hard", "soft")
        ),
        lambda: sk.layers.NormFace(UNITS),
        lambda: sk.layers.CosFace(UNITS, 0.0),
        lambda: sk.layers.ArcFace(UNITS, 0.0),
        lambda: sk.layers.MagFace(UNITS, margins=(0.0, 0.0)),
        lambda: sk.layers.AdaFace(UNITS, 0.0),
        lambda: sk.layers.ElasticFace(UNITS, 0.0),
        lambda: sk.layers.SphereFace2(UNITS, 0.0),
        lambda: sk.layers.SubCenterArcFace(UNITS, margin=0.0),
    ],
)
def test_without_a_margin_a_head_is_what_it_predicts_with(make: Any) -> None:
    head, (x, labels) = make(), draw()
    np.testing.assert_allclose(head(x, labels), head(x), atol=1e-4)  # of logits up to 64


@pytest.mark.parametrize("margin", [1, 1.0])
def test_margin_one_is_plain_normalised_softmax(margin: float) -> None:
    head = sk.layers.ASoftmax(UNITS, margin=margin, annealing=None)
    x, labels = draw()
    np.testing.assert_allclose(head(x, labels), head(x), atol=1e-6)
    linear = sk.layers.MarginLinear(UNITS, m2=0.0)
    np.testing.assert_allclose(linear(x, labels), linear(x), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_config_rebuilds_the_head(name: str) -> None:
    head = HEADS[name](gradient="exact", name="mine")
    config = head.get_config()
    again = type(head).from_config(config)
    assert again.get_config() == config
    x, labels = draw()
    head(x), again(x)
    again.set_weights(head.get_weights())
    np.testing.assert_array_equal(head(x, labels), again(x, labels))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint16"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_of_any_integer_width(dtype: str, shape: tuple[int, ...]) -> None:
    head = sk.layers.ASoftmax(UNITS)
    x, labels = draw()
    np.testing.assert_array_equal(head(x, labels.astype(dtype).reshape(shape)), head(x, labels))


@pytest.mark.parametrize(
    ("dtype", "units"), [("uint8", 256), ("uint8", 1000), ("int8", 128), ("uint16", 65536)]
)
def test_labels_of_a_type_too_narrow_for_the_classes(dtype: str, units: int) -> None:
    import tensorflow as tf

    head = sk.layers.ASoftmax(units, annealing=None)
    x, last = draw()[0], min(units - 1, np.iinfo(dtype).max)
    labels = np.array([0, 1, 77, last // 2, last - 1, last])
    wanted = np.asarray(head(x, labels))
    assert np.isfinite(wanted).all()
    narrow = labels.astype(dtype)
    np.testing.assert_array_equal(head(x, narrow), wanted)
    step = tf.function(lambda x, y: head(x, y), reduce_retracing=True)
    np.testing.assert_allclose(step(tf.constant(x, tf.float32), tf.constant(narrow)), wanted, 1e-5)
    model = sk.Sequential([keras.Input((DIM,)), sk.layers.ASoftmax(units)])
    model.compile("sgd", sk.losses.CrossEntropy())
    assert np.isfinite(model.fit(x, narrow, batch_size=3, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.eye(UNITS)[:BATCH],
            r"integer labels of shape `\(batch,\)` in `\[0, units\)`. Received: "
            r"shape=\(6, 7\), dtype=float32, units=7. For one-hot labels pass `ops.argmax",
        ),
        (np.eye(UNITS, dtype=int)[:BATCH], r"shape=\(6, 7\), dtype=int64, units=7"),
        (np.zeros(BATCH), r"shape=\(6,\), dtype=float32.*labels.astype\('int32'\)"),
        (np.full(BATCH, UNITS), r"labels in `\[0, 7\)`. Received labels from 7 to 7. .*units=8"),
        (np.full(BATCH, -1), r"labels in `\[0, 7\)`. Received labels from -1 to -1"),
    ],
)
def test_bad_labels_are_named(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sk.layers.MarginLinear(UNITS)(draw()[0], labels)


def test_one_label_an_embedding() -> None:
    head = sk.layers.ASoftmax(UNITS)
    with pytest.raises(ValueError, match="one label an embedding. Received: 1 embeddings, 4 lab"):
        head(np.ones((1, DIM)), np.zeros(4, int))


def test_a_wide_label_is_not_wrapped_inside_a_compiled_step() -> None:
    import tensorflow as tf

    head = sk.layers.ASoftmax(UNITS)
    x, labels = draw()
    head(x)
    labels[1] = 2**32 + 3
    logits = tf.function(lambda x, y: head(x, y))(tf.constant(x, tf.float32), tf.constant(labels))
    assert np.isnan(logits[1]).all() and np.isfinite(logits[0]).all()


def test_an_embedding_of_zeros_gives_finite_gradients() -> None:
    import tensorflow as tf

    head = sk.layers.MarginLinear(UNITS)
    x = tf.zeros((2, DIM))
    head(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(head(x, np.array([0, 1])))
    assert np.abs(tape.gradient(loss, x)).max() < 1e7


def test_a_label_out_of_range_inside_a_compiled_step_is_never_silent() -> None:
    import tensorflow as tf

    head = sk.layers.ASoftmax(UNITS)
    x, labels = draw()
    head(x)
    labels[2] = UNITS
    logits = tf.function(lambda x, y: head(x, y))(tf.constant(x, tf.float32), tf.constant(labels))
    assert np.isnan(logits[2]).all()
    assert np.isfinite(np.delete(logits, 2, axis=0)).all()


def test_training_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got no labels in training.*spherekeras.Sequential"):
        sk.layers.ASoftmax(UNITS)(draw()[0], training=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sk.layers.ASoftmax(0), "whole number of classes, at least 1. Received: units=0"),
        (lambda: sk.layers.ASoftmax(2.5), "whole number of classes.*units=2.5"),
        (lambda: sk.layers.ASoftmax(3, margin=0.5), "margin >= 1. Received: margin=0.5"),
        (lambda: sk.layers.ASoftmax(3, annealing=(1, 2)), "four numbers.*released recipe"),
        (lambda: sk.layers.ASoftmax(3, annealing=(1.0, 1, 1, 5.0)), "base >= minimum"),
        (lambda: sk.layers.ArcFace(3, gradient="caffe"), "gradient='exact' and gradient='detac"),
        (lambda: sk.layers.LSoftmax(3, gradient="caffe"), "LSoftmax` knows gradient='exact' and"),
        (lambda: sk.layers.ASoftmax(3, 2.5, gradient="caffe"), "whole margin. .*margin=2.5"),
        (lambda: sk.layers.ASoftmax(3, annealing="fast"), "name .'released', 'clcarwin'.*'fast'"),
        (lambda: sk.layers.CosFace(3, ramp=(5, 2)), r"begin <= end.*ramp=\(5, 2\)"),
        (lambda: sk.layers.CosFace(3, ramp=1000), r"ramp=\(begin, end\).*Received: ramp=1000"),
        (lambda: sk.layers.ASoftmax(3, annealing=5.0), "four numbers.*Received: annealing=5.0"),
        (
            lambda: sk.layers.MagFace(3, margins=0.5),
            r"margins=\(low, high\).*Received: margins=0.5",
        ),
        (lambda: sk.layers.CosFace(3, calls_per_step="4"), "whole number from 1. .*step='4'"),
        (lambda: sk.layers.CosFace(3, calls_per_step=1.5), "whole number from 1. .*step=1.5"),
        (lambda: sk.layers.CosFace(3, sampling=0.0), r"sampling in \(0, 1\].*sampling=0.0"),
        (lambda: sk.layers.SphereFace2(3, alpha=1.0), "0 < alpha < 1.*alpha=1.0"),
        (lambda: sk.layers.SphereFace2(1), "units > 1.*units=1"),
        (lambda: sk.layers.SphereFace2(3, sampling=0.5), "no sampled form.*sampling=0.5"),
        (lambda: sk.layers.MarginLinear(3, scale=0), "scale > 0. Received: scale=0"),
        (lambda: sk.layers.CosFace(3, -0.1), "margin >= 0. Received: margin=-0.1"),
        (lambda: sk.layers.ArcFace(3, 4.0), "0 <= margin <= pi .*margin=4.0"),
        (lambda: sk.layers.ArcFace(3, beyond="x"), "'linear'. Received: .*beyond='x'"),
        (lambda: sk.layers.ElasticFace(3, form="x"), "form='arc' or 'cos'.*form='x'"),
        (lambda: sk.layers.MagFace(3, lengths=(3, 1)), r"rise.*lengths=\(3, 1\)"),
        (lambda: sk.layers.AdaFace(3, momentum=0), "0 < momentum <= 1.*momentum=0"),
        (lambda: sk.layers.SubCenterArcFace(3, 0), "centers >= 1. Received: centers=0"),
        (lambda: sk.layers.SphereFaceR(3, 0.9), "margin >= 1, .*Received: margin=0.9"),
        (lambda: sk.layers.SphereFaceR(3, version="v3"), "version='v3'"),
        (lambda: sk.layers.SphereFacePlus(3, energy=-1), "energy >= 0. Received: energy=-1"),
        (lambda: sk.layers.MarginLinear(3, m2=-0.1), "0 <= m2 <= pi.*m2=-0.1"),
        (lambda: sk.layers.NormalizedDense(3, dtype="float16"), "float32.*Received: dtype=float16"),
        (
            lambda: sk.layers.NormalizedDense(3)(np.zeros((2, 3, 4))),
            r"`\(batch, dim\)`.*\(2, 3, 4\)",
        ),
    ],
)
def test_bad_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_real_margins_are_never_cut_to_whole_numbers() -> None:
    x, labels = draw()
    heads = [sk.layers.ASoftmax(UNITS, margin=m, annealing=None) for m in (1, 1.5, 2)]
    for head in heads:
        head(x)
        head.set_weights(heads[0].get_weights())
    one, half, two = (np.asarray(head(x, labels)) for head in heads)
    own = np.arange(BATCH), labels
    assert np.all(half[own] < one[own]) and np.all(two[own] < half[own])


@pytest.mark.parametrize("name", HEADS)
def test_the_target_never_rises_with_the_angle(name: str) -> None:
    head = HEADS[name](dtype="float64", gradient="exact")
    head.build((None, 2))
    kernel = np.zeros((2, head.columns))
    kernel[0] = 1.0
    head.kernel.assign(kernel)
    theta = np.linspace(0, math.pi, 721)
    x = 3 * np.stack([np.cos(theta), np.sin(theta)], 1)
    target = keras.ops.convert_to_numpy(head(x, np.zeros(len(theta), int)))[:, 0]
    rises = np.diff(target) > 1e-9 * np.abs(target).max()
    if name in JUMPS:  # the authors' continuation past π - m: cos θ - m·sin m jumps up once
        assert rises.sum() <= 1 and not rises[theta[1:] < math.pi - head.margin].any()
    else:
        assert not rises.any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_stay_in_float32_under_any_policy(name: str, policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        head = HEADS[name]()
        x, labels = draw()
        logits = head(keras.ops.cast(x, policy.removeprefix("mixed_")), labels)
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    rounded = keras.ops.cast(keras.ops.cast(x, policy.removeprefix("mixed_")), "float64")
    wanted = naive_logits(head, np.asarray(rounded), labels)
    np.testing.assert_allclose(logits, wanted, rtol=2e-5, atol=2e-4)


def test_annealing_advances_in_training_only() -> None:
    head = sk.layers.ASoftmax(UNITS)
    x, labels = draw()
    head(x, labels, training=False)
    head(x)
    assert int(head.step) == 0
    for _ in range(3):
        head(x, labels, training=True)
    assert int(head.step) == 3
    assert head.annealing_lambda() == pytest.approx(1000 / (1 + 0.12 * 3))


def test_angles_are_radians_to_every_class() -> None:
    head = sk.layers.ASoftmax(UNITS)
    x, _ = draw()
    angles = np.asarray(head.angles(x))
    kernel = np.asarray(keras.ops.convert_to_numpy(head.kernel))
    for i in range(BATCH):
        for j in range(UNITS):
            assert angles[i, j] == pytest.approx(
                math.acos(naive_cosine(x[i], kernel[:, j])), abs=1e-5
            )


def test_angles_of_several_centres_are_to_the_nearest() -> None:
    head = sk.layers.SubCenterArcFace(UNITS, centers=3)
    x, _ = draw()
    angles = np.asarray(head.angles(x))
    kernel = np.asarray(keras.ops.convert_to_numpy(head.kernel))
    assert (angles.shape, kernel.shape) == ((BATCH, UNITS), (DIM, 3 * UNITS))
    for i in range(BATCH):
        for j in range(UNITS):
            cosines = [naive_cosine(x[i], kernel[:, 3 * j + k]) for k in range(3)]
            assert angles[i, j] == pytest.approx(math.acos(max(cosines)), abs=1e-5)


def test_target_angle_follows_the_mean_angle_to_the_own_class() -> None:
    head = sk.layers.ASoftmax(UNITS)
    x, labels = draw()
    angles = np.asarray(head.angles(x))[np.arange(BATCH), labels].mean()
    head(x, labels, training=True)
    assert float(head.target_angle) == pytest.approx(0.99 * math.pi / 2 + 0.01 * angles, abs=1e-6)


def test_energy_is_the_naive_mean_over_the_classes_of_the_batch() -> None:
    head = sk.layers.SphereFacePlus(UNITS, energy=0.7, dtype="float64")
    x, _ = draw()
    labels = np.array([0, 3, 3, 5, 0, 3])
    head(x, labels, training=True)
    kernel = keras.ops.convert_to_numpy(head.kernel)
    classes = sorted(set(labels.tolist()))
    energies = [
        math.acos(naive_cosine(kernel[:, i], kernel[:, j])) ** -2
        for i in classes
        for j in classes
        if i < j
    ]
    assert float(head.losses[0]) == pytest.approx(0.7 * sum(energies) / len(energies), rel=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_soft_normalisation_adds_its_penalty(power: int) -> None:
    head = sk.layers.SphereFaceR(
        UNITS, normalization="soft", scale=4.0, soft_weight=0.3, soft_power=power, dtype="float64"
    )
    x, labels = draw()
    head(x, labels, training=True)
    gaps = [abs(math.sqrt(sum(a * a for a in row)) - 4.0) ** power for row in x]
    assert float(head.losses[0]) == pytest.approx(0.3 * sum(gaps) / len(gaps), rel=1e-9)
    assert head.loss().weight == pytest.approx(50.0 / 4.0)
    assert sk.layers.SphereFaceR(3, normalization="none").loss().weight == 50.0


def test_magface_refuses_a_single_margin() -> None:
    with pytest.raises(TypeError, match="margin"):
        sk.layers.MagFace(UNITS, margin=0.5)


def test_magface_adds_its_term() -> None:
    head = sk.layers.MagFace(UNITS, lengths=(1.0, 4.0), regularization=2.0, dtype="float64")
    x, labels = draw()
    head(x, labels, training=True)
    lengths = [min(max(math.sqrt(sum(a * a for a in row)), 1.0), 4.0) for row in x]
    wanted = 2.0 * sum(a / 16.0 + 1.0 / a for a in lengths) / len(lengths)
    assert float(head.losses[0]) == pytest.approx(wanted, rel=1e-9)


def test_moving_states_follow_training_and_nothing_else() -> None:
    x, labels = draw()
    curricular, ada = sk.layers.CurricularFace(UNITS), sk.layers.AdaFace(UNITS)
    for head in (curricular, ada):
        head(x, labels)
        head(x, labels, training=False)
    assert float(curricular.t.numpy()) == 0 and float(ada.mean.numpy()) == 20
    cosines = np.cos(np.asarray(keras.ops.convert_to_numpy(curricular.angles(x))))
    own = cosines[np.arange(BATCH), labels].mean()
    curricular(x, labels, training=True)
    assert float(curricular.t.numpy()) == pytest.approx(0.01 * own, abs=1e-6)
    ada(x, labels, training=True)
    lengths = np.linalg.norm(x, axis=1)
    assert float(ada.mean.numpy()) == pytest.approx(0.99 * 20 + 0.01 * lengths.mean(), rel=1e-5)
    assert float(ada.std.numpy()) == pytest.approx(0.99 * 100 + 0.01 * lengths.std(), rel=1e-5)


def test_elastic_margins_are_drawn_in_training_only() -> None:
    x = np.repeat(draw()[0][:1], 4000, axis=0)
    head = sk.layers.ElasticFace(UNITS, sigma=0.05, form="cos", scale=1.0, seed=1)
    labels = np.zeros(len(x), int)
    plain = keras.ops.convert_to_numpy(head(x))[:, 0]
    drawn = plain - keras.ops.convert_to_numpy(head(x, labels, training=True))[:, 0]
    assert drawn.mean() == pytest.approx(0.35, abs=0.005)
    assert drawn.std() == pytest.approx(0.05, rel=0.05)
    fixed = plain - keras.ops.convert_to_numpy(head(x, labels))[:, 0]
    np.testing.assert_allclose(fixed, 0.35, atol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_fits_and_comes_back_from_a_file(
    name: str, jit: bool, tmp_path: pathlib.Path
) -> None:
    def build() -> Any:
        model = sk.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM), HEADS[name]()])
        model.compile(keras.optimizers.SGD(0.01), model.layers[-1].loss(), jit_compile=jit)
        return model

    x, labels = draw()
    model = build()
    history = model.fit(x, labels, epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert int(model.layers[-1].step) == 3
    if jit:  # the files do not depend on it
        return
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    other = build()
    other.load_weights(tmp_path / "model.weights.h5")
    for again in (keras.models.load_model(tmp_path / "model.keras"), other):
        wanted = model((x, labels), training=False)
        np.testing.assert_allclose(again((x, labels), training=False), wanted, atol=1e-6)
        assert int(again.layers[-1].step) == 3


def test_annealing_goes_by_name_too() -> None:
    released, other = sk.layers.ASoftmax(3, annealing="released"), sk.layers.ASoftmax(3)
    assert released.get_config()["annealing"] == other.get_config()["annealing"]
    assert sk.layers.ASoftmax(3, annealing="clcarwin").annealing == (1500.0, 0.1, 1.0, 5.0)


def test_a_ramp_begins_with_plain_softmax_and_ends_with_the_margin() -> None:
    x, labels = draw()
    head = sk.layers.CosFace(UNITS, ramp=(2, 6))
    whole = sk.layers.CosFace(UNITS)
    head(x), whole(x)
    whole.kernel.assign(head.kernel)
    plain, full = head(x), whole(x, labels)
    for step in range(1, 9):
        share = min(max((step - 2) / 4, 0.0), 1.0)
        wanted = plain + share * (full - plain)
        np.testing.assert_allclose(head(x, labels, training=True), wanted, atol=1e-4)
    np.testing.assert_allclose(head(x, labels), full, atol=1e-4)
    assert int(head.step) == 8
    annealed = sk.layers.ASoftmax(UNITS, ramp=(3, 3))
    for _ in range(3):
        np.testing.assert_allclose(annealed(x, labels, training=True), annealed(x), atol=1e-5)
    assert np.abs(annealed(x, labels, training=True) - annealed(x)).max() > 1e-5


@pytest.mark.parametrize(("units", "value"), [(10, 12.9502), (8631, 5.7846), (10572, 5.5816)])
def test_the_bias_of_sphereface2_begins_in_balance(units: int, value: float) -> None:
    head = sk.layers.SphereFace2(units)
    head.build((None, 2))
    assert float(head.bias.numpy()) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(
    ("settings", "value"),  # the middle formula in numbers of 80 digits
    [
        ({"units": 3, "scale": 64.0}, 71.80824),
        ({"units": 4, "margin": 0.5, "scale": 64.0, "alpha": 0.8}, 78.90139),
        ({"units": 2}, 46.2877),
    ],
)
def test_the_bias_of_sphereface2_begins_in_balance_for_few_classes(
    settings: dict[str, Any], value: float
) -> None:
    head = sk.layers.SphereFace2(**settings)
    head.build((None, 2))
    assert float(head.bias.numpy()) == pytest.approx(value, abs=5e-5)


def test_a_hard_negative_is_one_beyond_the_turned_target() -> None:
    """At 170 degrees plus the margin the target goes on falling; what is hard does not."""
    head = sk.layers.CurricularFace(2, scale=1.0)
    head.build((None, 2))
    own, other = math.radians(170), math.acos(-0.97)
    head.kernel.assign([[math.cos(own), math.cos(other)], [math.sin(own), math.sin(other)]])
    logits = head(np.array([[1.0, 0.0]], "float32"), np.array([0]))
    assert float(logits[0, 1]) == pytest.approx(-0.97, abs=1e-6)


def caffe_gradients(
    x: np.ndarray, w: np.ndarray, labels: np.ndarray, m: int, weight: float, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The released layer's backward pass, row by row, for class weights of length 1."""
    by_x, by_w = np.zeros_like(x), np.zeros_like(w)
    for i, row in enumerate(x):
        length = math.sqrt(sum(row * row))
        for j in range(w.shape[1]):
            by_w[:, j] += g[i, j] * row
            if j != labels[i]:
                by_x[i] += g[i, j] * w[:, j]
                continue
            c = float(row @ w[:, j]) / length
            s0 = math.copysign(1, c)
            if m == 1:
                a, b = 1.0, 0.0
            elif m == 2:
                a, b = 4 * s0 * c, -(2 * s0 * c * c + 1) / length
            elif m == 3:
                s1 = math.copysign(1, abs(c) - 0.5)
                s2 = s0 * (1 + s1) - 2
                a, b = s1 * (12 * c * c - 3), -(8 * s1 * c**3 - s2) / length
            else:
                s3 = s0 * math.copysign(1, 2 * c * c - 1)
                s4 = 2 * s0 + s3 - 3
                a = s3 * (32 * c**3 - 16 * c)
                b = -(s3 * (24 * c**4 - 8 * c * c - 1) - s4) / length
            turned = (a * w[:, j] + b * row) / math.sqrt(a * a + b * b)
            by_x[i] += g[i, j] * (turned + weight * w[:, j]) / (1 + weight)
    return by_x, by_w


@pytest.mark.parametrize("annealing", [None, (10.0, 0.1, 1.0, 5.0)])
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_the_caffe_gradient_is_the_released_layers(margin: int, annealing: Any) -> None:
    import tensorflow as tf

    head = sk.layers.ASoftmax(UNITS, margin, annealing, gradient="caffe", dtype="float64")
    exact = sk.layers.ASoftmax(UNITS, margin, annealing, dtype="float64")
    x, labels = draw(7)
    head(x), exact(x)
    kernel = keras.ops.convert_to_numpy(head.kernel)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1.0, atol=1e-6)
    kernel = kernel / np.linalg.norm(kernel, axis=0)  # without the constraint's epsilon
    head.kernel.assign(kernel), exact.kernel.assign(kernel)
    np.testing.assert_allclose(head(x, labels), exact(x, labels), atol=1e-9)
    weights = np.random.default_rng(3).normal(size=(BATCH, UNITS))
    with tf.GradientTape() as tape:
        value = tf.convert_to_tensor(x)
        tape.watch(value)
        loss = tf.reduce_sum(head(value, labels) * weights)
    got = tape.gradient(loss, [value, head.kernel.value])
    weight = head.annealing_lambda()
    wanted = caffe_gradients(x, kernel, labels, margin, weight, weights)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_the_caffe_kernel_is_of_length_one_after_each_step() -> None:
    model = sk.Sequential([keras.layers.Dense(DIM), sk.layers.ASoftmax(UNITS, gradient="caffe")])
    model.compile(keras.optimizers.SGD(1.0), model.layers[-1].loss())
    model.fit(*draw(), epochs=2, verbose=0)
    kernel = keras.ops.convert_to_numpy(model.layers[-1].kernel)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_the_plain_form_and_the_written_out_gradient_are_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What JAX and torch differentiate by themselves, against what TensorFlow is handed."""
    import tensorflow as tf

    head = HEADS[name](dtype="float64")
    x, labels = draw(5)
    labels[1] = labels[0]
    head(x)
    weights = np.random.default_rng(6).normal(size=(BATCH, UNITS))
    results = []
    for backend in ("tensorflow", "plain"):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(x)
            tape.watch(value)
            logits = head(value, labels)
            loss = tf.reduce_sum(logits * weights)
        results.append([logits, *tape.gradient(loss, [value, head.kernel.value])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
