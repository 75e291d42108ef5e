"""How a recipe changes weights: optimiser, learning rate, running average, parts of batches."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from spherekeras.optimizers import SGD, AdamW
from spherekeras.recipe import Optimizer, Recipe


def compile_model(model: keras.Model, recipe: Recipe) -> None:
    """Compiles with the recipe's optimiser and the loss of its head.

    Where a batch is cut into parts, Keras adds their gradients up, but asks the schedule for every
    part and averages the weights after every part; both are mended here, the average up to a lag of
    less than one step.

    With SGD weight decay is coupled, as in the released recipe, on every trainable weight, after
    `clip`; AdamW's is decoupled and spares slopes, biases and batch norm.
    """
    plan = recipe.optimizer
    rate, parts = learning_rate(plan, recipe.training.steps), recipe.training.accumulation
    shared: dict[str, Any] = {"global_clipnorm": plan.clip or None}
    if parts > 1:
        rate = _OfParts(rate, parts)
        shared["gradient_accumulation_steps"] = parts
    if plan.average:
        shared.update(use_ema=True, ema_momentum=plan.average ** (1 / parts))
    optimizer: keras.optimizers.Optimizer
    if plan.name == "AdamW":
        decay = plan.weight_decay
        optimizer = AdamW(rate, weight_decay=decay, **shared)
        optimizer.exclude_from_weight_decay(var_names=["alpha", "beta", "bias", "gamma"])
    else:
        shared["coupled_weight_decay"] = plan.weight_decay
        optimizer = SGD(rate, plan.momentum, **shared)
    imitates = bool(recipe.teacher.preset)
    model.compile(
        optimizer,
        keras.losses.CosineSimilarity() if imitates else model.layers[-1].loss(),
        # XLA is slower than plain TensorFlow on a CPU and an error in MirroredStrategy.
        jit_compile=keras.backend.backend() == "jax",
    )


class _OfParts(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for an optimiser that counts the parts of batches."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, parts: int
    ) -> None:
        self.schedule, self.parts = schedule, parts

    def __call__(self, step: Any) -> Any:
        return self.schedule(step // self.parts)


class _WarmedUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps climb to the highest rate in a line."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, rate: float, steps: int
    ) -> None:
        self.schedule, self.rate, self.steps = schedule, rate, steps

    def __call__(self, step: Any) -> Any:
        climbed = self.rate * (keras.ops.cast(step, "float32") + 1) / (self.steps + 1)
        return keras.ops.where(step < self.steps, climbed, self.schedule(step))


@contextlib.contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Inside, the weights are their running average, where the optimiser keeps one."""
    if not model.optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    kept = [keras.ops.convert_to_numpy(variable) for variable in variables]
    model.optimizer.finalize_variable_values(variables)
    for variable in variables:  # on JAX it is the optimiser's array, and `predict` may take it away
        variable.assign(np.array(keras.ops.convert_to_numpy(variable)))
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)


def learning_rate(plan: Optimizer, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate at each step: linear warm-up, then milestones or a cosine fall to 0."""
    schedules = keras.optimizers.schedules
    if not plan.milestones:
        if not plan.warmup:
            return schedules.CosineDecay(plan.learning_rate, steps)
        return schedules.CosineDecay(
            0.0,
            steps - plan.warmup,
            warmup_target=plan.learning_rate,
            warmup_steps=plan.warmup,
        )
    falls = [plan.learning_rate * 0.1**i for i in range(len(plan.milestones) + 1)]
    stairs = schedules.PiecewiseConstantDecay([m - 1 for m in plan.milestones], falls)
    return _WarmedUp(stairs, plan.learning_rate, plan.warmup)
