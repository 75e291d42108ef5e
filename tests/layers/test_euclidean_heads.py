"""Softmax, softmax + centre loss and softmax + contrastive loss against naive loops."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras.layers.center_loss import CenterLoss
from spherekeras.layers.contrastive_softmax import ContrastiveSoftmax
from spherekeras.layers.softmax_linear import SoftmaxLinear

UNITS, DIM, BATCH = 5, 4, 7
HEADS: dict[str, Callable[..., Any]] = {
    "SoftmaxLinear": lambda **k: SoftmaxLinear(UNITS, **k),
    "SoftmaxLinear without bias": lambda **k: SoftmaxLinear(UNITS, use_bias=False, **k),
    "CenterLoss": lambda **k: CenterLoss(UNITS, weight=0.3, rate=0.4, **k),
    "ContrastiveSoftmax": lambda **k: ContrastiveSoftmax(UNITS, weight=0.3, margin=2.5, **k),
}
WITH_TERM = ("CenterLoss", "ContrastiveSoftmax")
each = pytest.mark.parametrize("name", HEADS)
Array = np.ndarray


def draw(seed: int = 0) -> tuple[Array, Array]:
    """Embeddings, and labels with a class three times, one twice and one never."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, DIM)), np.array([2, 0, 2, 4, 1, 2, 0])


def made(name: str, seed: int = 1, **kwargs: Any) -> Any:
    """A float64 head with drawn weights, centres too."""
    head = HEADS[name](dtype="float64", **kwargs)
    head.build((None, DIM))
    rng = np.random.default_rng(seed)
    for weight in head.weights:
        weight.assign(rng.normal(size=weight.shape))
    return head


def numpy(x: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(x))


def naive_logits(head: Any, x: Array) -> Array:
    kernel = numpy(head.kernel)
    bias = numpy(head.bias) if head.use_bias else np.zeros(UNITS)
    logits = np.zeros((len(x), UNITS))
    for i in range(len(x)):
        for j in range(UNITS):
            logits[i, j] = sum(x[i, k] * kernel[k, j] for k in range(x.shape[1])) + bias[j]
    return logits


def distance(a: Array, b: Array) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def naive_center_term(weight: float, centers: Array, x: Array, labels: Array) -> float:
    squares = [distance(row, centers[label]) ** 2 for row, label in zip(x, labels, strict=True)]
    return weight / 2 * sum(squares) / len(squares)


def moved(rate: float, centers: Array, x: Array, labels: Array) -> Array:
    after = centers.copy()
    for j in range(len(centers)):
        count, delta = 0, np.zeros(centers.shape[1])
        for row, label in zip(x, labels, strict=True):
            if label == j:
                count, delta = count + 1, delta + (centers[j] - row)
        after[j] = centers[j] - rate * delta / (1 + count)
    return after


def naive_contrast(weight: float, margin: float, x: Array, labels: Array) -> float:
    terms = []
    for i in range(len(x)):
        for j in range(i):
            d = distance(x[i], x[j])
            terms.append(d**2 / 2 if labels[i] == labels[j] else max(0.0, margin - d) ** 2 / 2)
    return weight * sum(terms) / max(len(terms), 1)


def term(head: Any, x: Array, labels: Array) -> float:
    head(x, labels, training=True)
    return float(sum(head.losses))


def naive_term(head: Any, x: Array, labels: Array) -> float:
    if isinstance(head, CenterLoss):
        return naive_center_term(head.weight, numpy(head.centers), x, labels)
    if isinstance(head, ContrastiveSoftmax):
        return naive_contrast(head.weight, head.margin, x, labels)
    return 0.0


@each
def test_logits_are_the_naive_loop_with_and_without_labels(name: str) -> None:
    head, (x, labels) = made(name), draw()
    expected = naive_logits(head, x)
    for given in ((x,), (x, labels), (x, labels.astype("uint8")[:, None])):
        np.testing.assert_allclose(head(*given), expected, atol=1e-9)
    np.testing.assert_allclose(head(x, labels, training=True), expected, atol=1e-9)


@each
def test_the_added_loss_is_the_naive_loop(name: str) -> None:
    head, (x, labels) = made(name), draw()
    expected = naive_term(head, x, labels)
    assert (expected > 0.01) == (name in WITH_TERM)
    assert term(head, x, labels) == pytest.approx(expected, abs=1e-6)
    head(x, labels)
    assert head.losses == []


@each
def test_gradient_is_the_numeric_one(name: str) -> None:
    import tensorflow as tf

    head, (x, labels) = made(name), draw()
    start = [numpy(weight) for weight in head.weights]
    factors = np.random.default_rng(2).normal(size=(BATCH, UNITS))

    def total(x: Any, kernel: Any) -> Any:
        for weight, value in zip(head.weights, start, strict=True):
            weight.assign(value)
        with keras.StatelessScope([(head.kernel, kernel)], collect_losses=True) as scope:
            logits = head(x, labels, training=True)
        return sum(scope.losses, keras.ops.sum(logits * factors))

    tensors = [tf.constant(x), tf.constant(start[0])]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = total(*tensors)
    for which, found in enumerate(tape.gradient(value, tensors)):
        for index in np.ndindex(*found.shape):
            ends = []
            for step in (1e-5, -1e-5):
                values = [x.copy(), start[0].copy()]
                values[which][index] += step
                ends.append(float(total(*map(tf.constant, values))))
            assert float(found[index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)


def test_centers_move_as_the_naive_loop_and_in_training_alone() -> None:
    head = made("CenterLoss")
    for seed in range(3):
        x, labels = draw(seed)
        before = numpy(head.centers)
        head(x, labels)
        head(x, labels, training=False)
        np.testing.assert_array_equal(head.centers, before)
        head(x, labels, training=True)
        np.testing.assert_allclose(head.centers, moved(0.4, before, x, labels), atol=1e-9)
        np.testing.assert_array_equal(numpy(head.centers)[3], before[3])  # no such label
    assert [weight.name for weight in head.non_trainable_weights] == ["centers"]
    fresh = CenterLoss(3)
    fresh.build((None, 2))
    assert fresh.centers.shape == (3, 2) and not numpy(fresh.centers).any()


def test_centers_come_to_rest_at_the_means_of_the_classes() -> None:
    head, (x, labels) = made("CenterLoss"), draw()
    for _ in range(100):
        head(x, labels, training=True)
    for label in set(labels):
        np.testing.assert_allclose(numpy(head.centers)[label], x[labels == label].mean(0))


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [1, 1, 2]])
@pytest.mark.parametrize("name", WITH_TERM)
def test_equal_embeddings_have_finite_gradients(name: str, labels: list[int]) -> None:
    import tensorflow as tf

    for value in (0.0, 3.0, 1e3):
        head = HEADS[name]()
        x = tf.fill((3, DIM), value)
        with tf.GradientTape() as tape:
            tape.watch(x)
            head(x, np.array(labels), training=True)
            loss = sum(head.losses)
        gradient = tape.gradient(loss, x)
        assert np.isfinite(float(loss)) and np.isfinite(gradient).all()
        if name == "ContrastiveSoftmax":
            expected = naive_term(head, numpy(x), np.array(labels))
            assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_contrast_of_one_class_pulls_and_of_one_picture_is_nothing() -> None:
    x, _ = draw()
    head = made("ContrastiveSoftmax")
    squares = [distance(x[i], x[j]) ** 2 for i in range(BATCH) for j in range(i)]
    expected = 0.3 * 0.5 * np.mean(squares)
    assert term(head, x, np.full(BATCH, 3)) == pytest.approx(expected, abs=1e-9)
    assert term(head, x[:1], np.array([3])) == 0.0


def test_contrast_keeps_its_digits_far_from_the_origin() -> None:
    x, labels = draw()
    far = (x + 100.0).astype("float32")
    expected = naive_contrast(0.3, 2.5, far.astype("float64"), labels)
    assert term(HEADS["ContrastiveSoftmax"](), far, labels) == pytest.approx(expected, rel=1e-5)


@each
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_heads_compute_in_float32_under_mixed_precision(name: str, policy: str) -> None:
    x, labels = draw()
    half = keras.ops.cast(x * 100, policy.removeprefix("mixed_"))
    keras.config.set_dtype_policy(policy)
    try:
        head, plain = HEADS[name](), HEADS[name](dtype="float32")
        head.build(x.shape)
        plain.build(x.shape)
        plain.set_weights(head.get_weights())
        found = head(half, labels, training=True)
        expected = plain(keras.ops.cast(half, "float32"), labels, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(head.losses, plain.losses)
    for ours, theirs in zip(head.weights, plain.weights, strict=True):
        assert ours.dtype == "float32"
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxLinear(0), "`SoftmaxLinear` expects `units` to be a whole number"),
        (lambda: SoftmaxLinear(3, dtype="float16"), "`SoftmaxLinear` computes in float32"),
        (
            lambda: CenterLoss(3, weight=-1.0),
            "`CenterLoss` expects weight >= 0 and 0 < rate <= 1. Received: weight=-1.0, rate=0.5.",
        ),
        (lambda: CenterLoss(3, rate=0.0), "Received: weight=0.003, rate=0.0."),
        (lambda: CenterLoss(3, rate=math.nan), "Received: weight=0.003, rate=nan."),
        (
            lambda: ContrastiveSoftmax(3, weight=-0.1),
            "`ContrastiveSoftmax` expects weight >= 0 and margin > 0. Received: weight=-0.1, "
            "margin=10.0.",
        ),
        (lambda: ContrastiveSoftmax(3, margin=0), "Received: weight=0.05, margin=0."),
    ],
)
def test_bad_arguments_are_told(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


@each
def test_bad_labels_and_embeddings_are_told(name: str) -> None:
    head, (x, labels) = made(name), draw()
    bad: dict[str, Any] = {
        "dtype=float64": labels.astype("float64"),
        f"shape=({BATCH}, {UNITS})": np.eye(UNITS, dtype="int32")[labels],
        "Received labels from 0 to 5.": np.where(labels == 4, 5, labels),
        "Received labels from -1 to 4.": np.where(labels == 1, -1, labels),
        f"{BATCH} embeddings, 3 labels": labels[:3],
    }
    for message, given in bad.items():
        with pytest.raises(ValueError) as error:
            head(x, given, training=True)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="expects embeddings of shape `\\(batch, dim\\)`"):
        HEADS[name]()(np.ones((2, 3, 4)), np.array([0, 1]))


@each
def test_training_without_labels_is_refused_where_they_are_needed(name: str) -> None:
    head, (x, _) = made(name), draw()
    if name in WITH_TERM:
        with pytest.raises(ValueError, match="got no labels in training"):
            head(x, training=True)
    else:
        np.testing.assert_allclose(head(x, training=True), naive_logits(head, x), atol=1e-9)


@each
def test_a_wrong_label_makes_a_compiled_step_nan(name: str) -> None:
    import tensorflow as tf

    x, labels = draw()
    head = HEADS[name]()
    head.build(x.shape)

    @tf.function
    def step(x: Any, labels: Any) -> Any:
        logits = head(x, labels, training=True)
        return logits, sum(head.losses, keras.ops.zeros(()))

    logits, term = step(tf.constant(x, tf.float32), tf.constant(labels))
    assert np.isfinite(logits).all() and np.isfinite(term)
    logits, term = step(tf.constant(x, tf.float32), tf.constant(np.where(labels == 4, 5, labels)))
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), labels == 4)
    assert np.isnan(term) == (name in WITH_TERM)


@each
def test_config_round_trip(name: str) -> None:
    head = HEADS[name](kernel_initializer="he_normal", name="head")
    again = type(head).from_config(head.get_config())
    assert again.get_config() == head.get_config()
    for attribute in ("units", "use_bias", "weight", "rate", "margin"):
        assert getattr(again, attribute, None) == getattr(head, attribute, None)
    assert isinstance(again.kernel_initializer, keras.initializers.HeNormal)


def blobs() -> tuple[Array, Array]:
    """Four classes, apart in the first four values; the last two are noise."""
    labels = np.arange(96) % 4
    noise = np.random.default_rng(5).normal(size=(96, 6)) * [0.3, 0.3, 0.3, 0.3, 1.0, 1.0]
    return (np.eye(4, 6)[labels] * 2 + noise).astype("float32"), labels


def trained(make: Callable[[], Any], jit: bool = False, epochs: int = 2) -> Any:
    x, labels = blobs()
    keras.utils.set_random_seed(3)
    layers = [keras.Input((x.shape[1],)), keras.layers.Dense(8), make()]
    model = sk.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.2), layers[-1].loss(), jit_compile=jit)
    model.fit(x, labels, batch_size=24, epochs=epochs, shuffle=False, verbose=0)
    return model


TOYS: dict[str, Callable[[], Any]] = {
    "SoftmaxLinear": lambda: SoftmaxLinear(4),
    "CenterLoss": lambda: CenterLoss(4, weight=0.2),
    "ContrastiveSoftmax": lambda: ContrastiveSoftmax(4, weight=0.2, margin=4.0),
}


def width(model: Any) -> float:
    """Spread of the embeddings within classes over the spread of all."""
    x, labels = blobs()
    embedding = numpy(model.layers[0](x))
    within = np.mean([embedding[labels == label].var(axis=0).sum() for label in set(labels)])
    return float(within / embedding.var(axis=0).sum())


def test_fit_learns_and_the_terms_narrow_the_classes() -> None:
    widths = {}
    for name, make in TOYS.items():
        model, (x, labels) = trained(make, epochs=10), blobs()
        assert (numpy(model(x)).argmax(axis=1) == labels).mean() > 0.95, name
        widths[name] = width(model)
    assert widths["CenterLoss"] < 0.8 * widths["SoftmaxLinear"]
    assert widths["ContrastiveSoftmax"] < 0.8 * widths["SoftmaxLinear"]


@pytest.mark.parametrize("name", TOYS)
def test_compiled_by_xla_is_the_same_training(name: str) -> None:
    plain, compiled = (trained(TOYS[name], jit) for jit in (False, True))
    assert len(plain.weights) == len(compiled.weights)
    for ours, theirs in zip(plain.weights, compiled.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_saved_in_a_sequential_and_evaluate_changes_nothing(
    name: str, tmp_path: pathlib.Path
) -> None:
    model, (x, labels) = trained(TOYS[name]), blobs()
    weights = [numpy(weight) for weight in model.weights]
    loss = model.evaluate(x, labels, verbose=0)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits = model.predict(x, verbose=0)
    assert loss == pytest.approx(float(plain(labels, logits)), abs=1e-5)  # without the term
    for weight, before in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[-1]) is type(model.layers[-1])
    assert again.layers[-1].get_config() == model.layers[-1].get_config()
    for weight, before in zip(again.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, before)
    np.testing.assert_array_equal(again.predict(x, verbose=0), logits)
    for kind in (model, again):
        kind.fit(x, labels, batch_size=24, shuffle=False, verbose=0)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_functional_model_is_the_sequential_one() -> None:
    x, labels = blobs()
    for name in WITH_TERM:
        model, make = trained(TOYS[name], epochs=1), TOYS[name]
        image, label = keras.Input((x.shape[1],)), keras.Input((), dtype="int32")
        keras.utils.set_random_seed(3)
        embedding, head = keras.layers.Dense(8)(image), make()
        functional = keras.Model([image, label], head(embedding, label))
        functional.compile(keras.optimizers.SGD(0.2), head.loss())
        functional.fit([x, labels], labels, batch_size=24, shuffle=False, verbose=0)
        for ours, theirs in zip(functional.weights, model.weights, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=name)


def test_plain_softmax_trains_in_a_stock_sequential() -> None:
    x, labels = blobs()
    model = keras.Sequential([keras.Input((x.shape[1],)), SoftmaxLinear(4)])
    model.compile(keras.optimizers.SGD(0.2), SoftmaxLinear(4).loss())
    model.fit(x, labels, batch_size=24, epochs=10, verbose=0)
    assert (numpy(model(x)).argmax(axis=1) == labels).mean() > 0.95
