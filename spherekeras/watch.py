"""A look at a run as it goes: the numbers of its head, and an end where going on is no use."""

import csv
import math
import pathlib
import time

import keras
import numpy as np

from spherekeras import layers
from spherekeras.checkpoints import Checkpoints, step_of

_CHANCE = 85.0  # degrees: two random directions stand at 90


class Watch(keras.callbacks.Callback):
    """Logs λ, the mean target angle and the speed; stops what no longer learns.

    It stops when the loss or a weight is no longer finite, and when the mean target angle has never
    left chance in a given number of steps.

    Args:
        checkpoints: of the run.
        patience: so many.

    Attributes:
        failure: what a user is told; "" as long as all is well.
        finite: whether all numbers are.
    """

    def __init__(self, checkpoints: Checkpoints, patience: int) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.patience = patience
        self.failure = ""
        self.finite = True
        self._at_chance: float = 0

    def go_on(self, log: pathlib.Path, done: int, every: int) -> None:
        """Learns from a run's log what it was like before it was cut off.

        Args:
            log: of the run, with `target_angle` after every epoch.
            done: the steps that the run stands at.
            every: the steps of an epoch.
        """
        if not done or not log.is_file():
            return
        with log.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))[: done // every]  # a killed run may tell of more
        angles = [float(row["target_angle"]) for row in rows if row.get("target_angle")]
        learned = any(angle < _CHANCE for angle in angles)
        self._at_chance = -math.inf if learned else every * len(angles)
        if self._at_chance >= self.patience:
            self._at_chance = 0  # it was stopped for that, and is to go on all the same

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.first, self.started = step_of(self.model), time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs and not math.isfinite(float(logs["loss"])):
            self._not_finite("The loss is")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is None:
            return
        if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
            self._not_finite("A weight is")
        step, state = step_of(self.model), self._head()
        logs.update(state)
        logs["steps_per_second"] = (step - self.first) / (time.perf_counter() - self.started)
        if state.get("target_angle", 0.0) < _CHANCE:
            self._at_chance = -math.inf  # it has learned: a later rise is another matter
        self._at_chance += step - self.first
        if self._at_chance >= self.patience:
            self._stop(
                f"No better than chance at step {step} ({_text(state, loss=logs['loss'])}): the "
                "margin may be too hard to begin with. Raise the first lambda of "
                "`head.annealing`, begin without a margin (`head.ramp`), lower "
                "`optimizer.learning_rate`, or start from a preset (`backbone.start`). The "
                "same command goes on all the same."
            )

    def _not_finite(self, what: str) -> None:
        self.finite = False
        kept = f"{self.checkpoints.path} is intact" if self.checkpoints.kept else "none was kept"
        self._stop(
            f"{what} no longer finite at step {step_of(self.model)} ({_text(self._head())}). Lower "
            "`optimizer.learning_rate`, set `optimizer.clip`, or raise lambda's floor in "
            f"`head.annealing`, and train with another `--out`: a run goes on with its own recipe "
            f"alone. Last checkpoint: {kept}."
        )

    def _stop(self, failure: str) -> None:
        self.failure = self.failure or failure
        self.model.stop_training = True

    def _head(self) -> dict[str, float]:
        head = self.model.layers[-1]
        state = {"lambda": head.annealing_lambda()} if isinstance(head, layers.ASoftmax) else {}
        if isinstance(head, layers.MarginHead):
            state["target_angle"] = math.degrees(
                float(keras.ops.convert_to_numpy(head.target_angle))
            )
        return state


def _text(state: dict[str, float], **more: float) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in {**state, **more}.items())
