"""The thin Sequential against the Functional form, and through saving."""

import pathlib
import types

import keras
import numpy as np
import pytest

import spherekeras as sk

CLASSES = 5


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 12)).astype("float32"), rng.integers(0, CLASSES, 80)


def heads() -> dict[str, keras.layers.Layer]:
    return {
        "ASoftmax": sk.layers.ASoftmax(CLASSES, annealing=(100.0, 0.12, 1.0, 5.0)),
        "MarginLinear": sk.layers.MarginLinear(CLASSES, scale=16.0),
    }


def compiled(model: keras.Model, **options: object) -> keras.Model:
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


def backbone() -> keras.Model:
    return keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(8)]
    )


def losses(model: keras.Model, x: object, y: np.ndarray) -> list[float]:
    class Note(keras.callbacks.Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
            self.seen.append(float(logs["loss"]))

    note = Note()
    note.seen = []
    model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[note])
    return note.seen


@pytest.mark.parametrize("name", heads())
@pytest.mark.parametrize("jit", [False, True])
def test_sequential_and_functional_have_the_same_losses(name: str, jit: bool) -> None:
    x, y = data()
    image, label = keras.Input((12,)), keras.Input((), dtype="int32")
    functional = keras.Model([image, label], heads()[name](backbone()(image), label))
    sequential = sk.Sequential([backbone(), heads()[name]])
    sequential.set_weights(functional.get_weights())
    a = losses(compiled(functional, jit_compile=jit), [x, y], y)
    b = losses(compiled(sequential, jit_compile=jit), x, y)
    assert len(a) == len(b) == 20
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(
        functional.evaluate([x, y], y, verbose=0), sequential.evaluate(x, y, verbose=0), atol=1e-5
    )


@pytest.mark.parametrize("name", heads())
def test_saved_model_gives_the_same_outputs_and_goes_on(name: str, tmp_path: pathlib.Path) -> None:
    x, y = data()
    model = compiled(sk.Sequential([backbone(), heads()[name]]))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is sk.Sequential
    np.testing.assert_allclose(model.predict(x, verbose=0), again.predict(x, verbose=0), atol=1e-6)
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert losses(model, x, y) == pytest.approx(losses(again, x, y), abs=1e-6)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = sk.Sequential([backbone(), heads()[name]])
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.predict(x, verbose=0), fresh.predict(x, verbose=0))


def test_a_saved_functional_model_gives_the_same_outputs(tmp_path: pathlib.Path) -> None:
    x, y = data()
    image, label = keras.Input((12,)), keras.Input((), dtype="int32")
    model = keras.Model([image, label], sk.layers.ASoftmax(CLASSES)(backbone()(image), label))
    compiled(model).fit([x, y], y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        model.predict([x, y], verbose=0), again.predict([x, y], verbose=0), atol=1e-6
    )


def test_prediction_is_margin_free_and_training_pulls_embeddings_to_their_class() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(CLASSES, 12))
    y = np.tile(np.arange(CLASSES), 40)
    x = (centres[y] + 0.3 * rng.normal(size=(len(y), 12))).astype("float32")
    model = compiled(sk.Sequential([backbone(), heads()["ASoftmax"]]))
    model.fit(x, y, epochs=30, verbose=0)
    logits = model.predict(x, verbose=0)
    embedding = model.layers[0].predict(x, verbose=0)
    np.testing.assert_allclose(logits, model.layers[-1](embedding), atol=1e-4)
    assert np.mean(logits.argmax(axis=1) == y) > 0.95
    assert np.degrees(float(model.layers[-1].target_angle)) < 60


def test_a_model_built_without_an_input_shape_trains() -> None:
    x, y = data()
    model = compiled(sk.Sequential([keras.layers.Dense(8), sk.layers.ASoftmax(CLASSES)]))
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def test_missing_labels_are_named() -> None:
    x, _ = data()
    model = compiled(sk.Sequential([backbone(), heads()["ASoftmax"]]))
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="Received: labels missing"):
            use(x, verbose=0)


def test_another_last_layer_is_refused() -> None:
    x, y = data()
    model = compiled(sk.Sequential([keras.layers.Dense(CLASSES)]))
    with pytest.raises(ValueError, match=r"head of `spherekeras.layers` as its last layer"):
        model.fit(x, y, verbose=0)


def test_bad_labels_are_named_before_a_step_compiles() -> None:
    x, y = data()
    model = compiled(sk.Sequential([backbone(), heads()["ASoftmax"]]))
    with pytest.raises(ValueError, match=r"labels in `\[0, 5\)`. Received labels from 1 to 5"):
        model.fit(x, y + 1, verbose=0)
    with pytest.raises(ValueError, match=r"For one-hot labels pass `ops.argmax"):
        model.fit(x, np.eye(CLASSES)[y], verbose=0)


def test_xla_over_replicas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute belongs to the TensorFlow backend")
    model = sk.Sequential([keras.layers.Dense(4), sk.layers.ASoftmax(3)])
    model.compile("sgd", model.layers[-1].loss(), jit_compile=True)
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(type(model), "distribute_strategy", two)
    with pytest.raises(ValueError, match=r"XLA cannot compile a step that 2 replicas .*`jit_c"):
        model.fit(np.ones((4, 5), "float32"), np.arange(4) % 3, verbose=0)


def test_images_are_cast_and_shaped_as_in_prediction() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 6, 6), "uint8")
    labels = np.arange(10) % CLASSES
    losses = []
    for x in (images, images[..., None], images[..., None].astype("float32")):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), sk.layers.ASoftmax(CLASSES)]
        model = compiled(sk.Sequential([keras.Input((6, 6, 1)), *layers]))
        model.fit(x, labels, verbose=0)
        losses.append(model.evaluate(x, labels, verbose=0)[0])
    assert losses[0] == losses[1] == losses[2] and np.isfinite(losses).all()


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch"])
def test_a_model_that_was_not_compiled_says_so(method: str) -> None:
    model = sk.Sequential([keras.Input((12,)), *untrained()])
    with pytest.raises(ValueError, match=r"You must call `compile\(\)` before"):
        getattr(model, method)(*data())


def untrained() -> list[keras.layers.Layer]:
    return [keras.layers.Dense(8), sk.layers.ASoftmax(CLASSES)]


def test_steps_are_counted_under_loss_scaling() -> None:
    inner = keras.optimizers.SGD(0.05, gradient_accumulation_steps=4)
    model = sk.Sequential([keras.Input((12,)), keras.layers.Dense(8), sk.layers.ASoftmax(CLASSES)])
    model.compile(keras.optimizers.LossScaleOptimizer(inner), model.layers[-1].loss())
    x, labels = data()
    model.evaluate(x, labels, verbose=0)
    assert model.layers[-1].calls_per_step == 4
    model.layers[-1].calls_per_step = 1
    model.fit(x, labels, batch_size=10, verbose=0)
    assert model.layers[-1].calls_per_step == 4


def test_steps_of_several_calls_are_saved_with_the_head(tmp_path: pathlib.Path) -> None:
    head = sk.layers.ASoftmax(CLASSES, annealing=(100.0, 0.12, 1.0, 5.0))
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=4)
    model = sk.Sequential([keras.Input((12,)), keras.layers.Dense(8), head])
    model.compile(optimizer, head.loss())
    x, labels = data()
    model.fit(x, labels, batch_size=10, verbose=0)
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert again.layers[-1].calls_per_step == 4
    assert again.layers[-1].annealing_lambda() == head.annealing_lambda()
    before, end = head.annealing_lambda(), int(head.step)
    for optimizer in ("sgd", keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)):
        again.compile(optimizer, head.loss())  # on a machine that accumulates less, or not
        again.evaluate(x, labels, verbose=0)
        assert again.layers[-1].annealing_lambda() == before
        again.fit(x, labels, batch_size=10, epochs=2, verbose=0)
        calls = again.layers[-1].calls_per_step
        assert calls == (1 if optimizer == "sgd" else 2)
        before = again.layers[-1].annealing_lambda()
        assert before < head.annealing_lambda()
    weights = sk.Sequential([keras.Input((12,)), *untrained()])
    weights = sk.Sequential.from_config(weights.get_config())
    weights.compile(keras.optimizers.SGD(0.05, gradient_accumulation_steps=4), head.loss())
    weights.set_weights(model.get_weights())  # which do not tell how many calls made a step
    weights.fit(x[:10], labels[:10], batch_size=10, verbose=0)
    assert int(weights.layers[-1].step) == end + 1
    with pytest.raises(ValueError, match="expects calls_per_step, a whole number from 1. Received"):
        sk.layers.ArcFace(CLASSES, calls_per_step=0)


def test_metrics_of_sampled_classes_are_among_the_sample() -> None:
    head = sk.layers.ArcFace(40, scale=8.0, sampling=0.2)
    model = sk.Sequential([keras.Input((12,)), keras.layers.Dense(8), head])
    model.compile(keras.optimizers.SGD(0.0), head.loss(), metrics=["accuracy"])
    labels = np.arange(40)
    model(np.ones((1, 12), "float32"))
    dense, kernel = model.layers[0], np.zeros((8, 40), "float32")
    kernel[0], kernel[1] = np.cos(np.arange(40) / 7), np.sin(np.arange(40) / 7)
    head.kernel.assign(kernel)
    dense.kernel.assign(np.eye(12, 8))
    x = np.zeros((40, 12), "float32")
    x[:, :8] = kernel.T  # each row at its class, a tenth of a turn from the next
    head.margin = 0.0
    history = model.fit(x, labels, batch_size=10, verbose=0).history
    assert history["accuracy"] == [1.0]
    assert model.evaluate(x, labels, verbose=0)[1] == 1.0
