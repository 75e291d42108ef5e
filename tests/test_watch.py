"""What a run is stopped for, and what it is not."""

import math

import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras.checkpoints import Checkpoints
from spherekeras.watch import Watch


def watched(head, tmp_path, patience=1000):
    model = sk.Sequential([keras.Input((3,)), head])
    model.compile("sgd", head.loss())
    model.optimizer.build(model.trainable_variables)
    watch = Watch(Checkpoints(tmp_path), patience)
    watch.set_model(model)
    return watch


def epoch(watch, steps, loss, angle=None):
    """One epoch, as Keras would call it."""
    model = watch.model
    watch.on_epoch_begin(0)
    model.optimizer.iterations.assign(model.optimizer.iterations + steps)
    if angle is not None:
        model.layers[-1].target_angle.assign(math.radians(angle))
    logs = {"loss": loss}
    watch.on_epoch_end(0, logs)
    return logs


@pytest.mark.parametrize(("angles", "stopped"), [([89.3] * 3, True), ([89, 80, 89.3], False)])
def test_a_run_that_was_cut_off_remembers_what_it_was_like(tmp_path, angles, stopped):
    rows = "".join(f"{number},9.5,{angle}\n" for number, angle in enumerate([*angles, 20]))
    (tmp_path / "log.csv").write_text(f"epoch,loss,target_angle\n{rows}")
    watch = watched(sk.layers.ASoftmax(10), tmp_path, patience=1300)
    watch.go_on(tmp_path / "log.csv", 1200, 400)  # the fourth epoch was told of and not kept
    epoch(watch, 400, 9.5, 89.3)
    assert bool(watch.failure) is stopped
    stubborn = watched(sk.layers.ASoftmax(10), tmp_path, patience=1200)
    stubborn.go_on(tmp_path / "log.csv", 1200, 400)  # stopped once, and called again
    epoch(stubborn, 400, 9.5, 89.3)
    assert not stubborn.failure
    fresh = watched(sk.layers.ASoftmax(10), tmp_path, patience=1300)
    fresh.go_on(tmp_path / "none.csv", 1200, 400)
    fresh.go_on(tmp_path / "log.csv", 0, 400)
    epoch(fresh, 400, 9.5, 89.3)
    assert not fresh.failure


def test_a_head_at_chance_is_stopped_with_advice(tmp_path):
    watch = watched(sk.layers.ASoftmax(10), tmp_path, patience=1300)
    for number in range(4):
        logs = epoch(watch, 400, 9.5, 89.3)
        assert bool(watch.failure) == (number == 3), number
    assert logs["target_angle"] == pytest.approx(89.3) and logs["steps_per_second"] > 0
    assert watch.model.stop_training and watch.finite
    assert watch.failure.startswith("No better than chance at step 1600 (lambda ")
    assert "target_angle 89.3, loss 9.5): " in watch.failure
    assert "`head.annealing`" in watch.failure and "The same command goes on" in watch.failure


def test_what_has_learned_is_left_alone(tmp_path):
    watch = watched(sk.layers.ArcFace(10), tmp_path)
    epoch(watch, 600, 9.0, 89.0)
    epoch(watch, 10, 8.0, 70.0)
    for _ in range(5):
        epoch(watch, 1000, 9.0, 88.0)
    assert not watch.failure


def test_a_head_without_an_angle_is_left_alone(tmp_path):
    watch = watched(sk.layers.SoftmaxLinear(10), tmp_path)
    epoch(watch, 2000, math.log(10))
    assert not watch.failure


def test_numbers_that_are_not_finite_stop_it_at_once(tmp_path):
    watch = watched(sk.layers.ArcFace(10), tmp_path)
    watch.on_train_batch_end(0, {"loss": 1.0})
    assert not watch.failure
    watch.on_train_batch_end(1, {"loss": float("nan")})
    assert watch.failure.startswith("The loss is no longer finite at step 0 (target_angle 90)")
    assert watch.failure.endswith("Last checkpoint: none was kept.") and not watch.finite
    other = watched(sk.layers.ArcFace(10), tmp_path)
    kernel = other.model.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    epoch(other, 1, 1.0)
    assert other.failure.startswith("A weight is no longer finite") and not other.finite
