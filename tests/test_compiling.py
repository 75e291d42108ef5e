"""Batches in parts: the steps of whole ones, in rate, annealing, average and weights."""

import csv
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import spherekeras as sk
from spherekeras.compiling import compile_model, learning_rate
from spherekeras.data.drawn_faces import write_drawn_crops
from spherekeras.errors import RecipeError
from spherekeras.recipe import Backbone, Optimizer, Recipe, Training
from spherekeras.training import train

RECIPE = """
[data]
validation = 0.61
[backbone]
depth = 4
embedding_dim = 16
[head]
annealing = [10.0, 0.12, 1.0, 5.0]
ramp = [2, 5]
[optimizer]
learning_rate = 0.02
warmup = 2
milestones = [6]
clip = 5.0
[training]
steps = 8
batch_size = 8
accumulation = 1
checkpoint_steps = 4
"""
IMAGES = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 5, 48).astype("int32")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_drawn_crops(tmp_path_factory.mktemp("crops"), range(8), 6)


def run(folder: pathlib.Path, crops: pathlib.Path, parts: int) -> dict[str, np.ndarray]:
    folder.mkdir()
    recipe = folder / "mine.toml"
    recipe.write_text(RECIPE.replace("accumulation = 1", f"accumulation = {parts}"))
    train(recipe, crops, folder / "run", verbose=0)
    with np.load(folder / "run" / "checkpoint.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_run_in_parts_is_the_run_in_whole_batches(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    whole, parts = run(tmp_path / "whole", crops, 1), run(tmp_path / "parts", crops, 4)
    kernels = {name for name in whole if name.endswith("kernel") and name.startswith("model")}
    assert len(kernels) == 6  # four convolutions, the embedding, the head
    for name in kernels:
        np.testing.assert_allclose(parts[name], whole[name], atol=2e-6, err_msg=name)
    logs = []
    for kind in ("whole", "parts"):
        with open(tmp_path / kind / "run" / "log.csv", newline="") as file:
            logs.append(list(csv.DictReader(file)))
    for ours, theirs in zip(*logs, strict=True):
        assert ours["lambda"] == theirs["lambda"] and float(ours["lambda"]) < 8
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-5)


def small(accumulation: int, **options: Any) -> sk.Sequential:
    keras.utils.set_random_seed(3)
    head = sk.layers.ASoftmax(5, annealing=(10.0, 0.5, 1.0, 1.0))
    model = sk.Sequential([keras.Input((6,)), keras.layers.Dense(4), head])
    plan = Optimizer(learning_rate=0.1, warmup=2, **options)
    training = Training(steps=6, batch_size=8, accumulation=accumulation, checkpoint_steps=6)
    compile_model(
        model, Recipe("small", backbone=Backbone(depth=4), optimizer=plan, training=training)
    )
    return model


def fitted(model: sk.Sequential, parts: int) -> list[dict[str, np.ndarray]]:
    """Weights, average and rate after every step."""
    seen: list[dict[str, np.ndarray]] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if (batch + 1) % parts == 0:
                optimizer, head = model.optimizer, model.layers[-1]
                average = optimizer._model_variables_moving_average
                seen.append(
                    {
                        "kernel": np.array(model.layers[0].kernel),
                        "average": np.array(average[0]),
                        "lambda": np.array(head.annealing_lambda()),
                        "steps": np.array(optimizer.iterations),
                    }
                )

    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8 // parts)
    model.fit(data, shuffle=False, verbose=0, callbacks=[Look()])
    return seen


def test_rate_annealing_and_average_go_by_the_batch() -> None:
    whole, parts = small(1, average=0.5), small(4, average=0.5)
    ones, fours = fitted(whole, 1), fitted(parts, 4)
    assert len(ones) == len(fours) == 6
    average, keep = np.array(small(1).layers[0].kernel), 0.5**0.25
    for step, (one, four) in enumerate(zip(ones, fours, strict=True), 1):
        np.testing.assert_allclose(four["kernel"], one["kernel"], atol=1e-6)
        assert four["lambda"] == one["lambda"] and four["steps"] == one["steps"] == step
        before = ones[step - 2]["kernel"] if step > 1 else average
        # Three parts leave the weights alone, the fourth changes them.
        average = keep**3 * average + (1 - keep**3) * before
        average = keep * average + (1 - keep) * one["kernel"]
        np.testing.assert_allclose(four["average"], average, atol=1e-6)
    assert np.abs(ones[-1]["kernel"] - ones[0]["kernel"]).max() > 0.05
    asked = [float(parts.optimizer._learning_rate(micro)) for micro in range(24)]
    schedule = learning_rate(Optimizer(learning_rate=0.1, warmup=2), 6)
    assert asked == [pytest.approx(float(schedule(micro // 4))) for micro in range(24)]


def test_a_functional_model_is_told_by_hand() -> None:
    inputs, labels = keras.Input((6,)), keras.Input((), dtype="int32")
    head = sk.layers.ArcFace(5, ramp=(1, 3))
    head.calls_per_step = 2
    model = keras.Model([inputs, labels], head(keras.layers.Dense(4)(inputs), labels))
    model.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=2), head.loss())
    for calls in range(1, 8):
        model.train_on_batch([IMAGES[:4], LABELS[:4]], LABELS[:4])
        assert int(head.step) == calls and int(head.present_step()) == (calls + 1) // 2
    assert sk.layers.ArcFace.from_config(head.get_config()).calls_per_step == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (3, r"divides by `training.accumulation` .*\(3 x 1\)\. Received: 8\. Set .* multiple of 3"),
        (9, r"`training.accumulation` lies between 1 and 8\. Received: 9"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    crops: pathlib.Path, tmp_path: pathlib.Path, parts: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run(tmp_path / "x", crops, parts)


def test_parts_over_replicas_are_refused(crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    class Two:
        num_replicas_in_sync = 2

    (tmp_path / "mine.toml").write_text(RECIPE.replace("accumulation = 1", "accumulation = 2"))
    with pytest.raises(RecipeError, match=r"Received: training.accumulation = 2 and 2 replicas\."):
        train(tmp_path / "mine.toml", crops, tmp_path / "run", strategy=Two(), verbose=0)
