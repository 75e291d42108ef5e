"""Several JAX devices: each takes its part of the batch and its part of the classes.

The class weights outgrow every other part of a network: a million classes of 512 numbers are 2 GB,
their momentum as much again. So a device holds the columns of its own classes alone; it sees the
embeddings of the whole batch (few numbers), computes its own columns of the logits, and only sums
over classes go round. XLA writes that program by itself, once it is told where the columns lie.
"""

import contextlib
from collections.abc import Iterator

import keras
from absl import logging

_BATCH = "batch"


def devices() -> int:
    """Returns how many devices a model can be shared out over; 1 on other backends than JAX.

    Example:

    >>> devices() >= 1
    True
    """
    if keras.backend.backend() != "jax":
        return 1
    return len(keras.distribution.list_devices())


@contextlib.contextmanager
def over_devices(classes: int | None) -> Iterator[None]:
    """Inside, models are made, and `fit` works, over all JAX devices.

    Args:
        classes: of the model's layer called "head", whose columns and logits are shared out. Where
            they do not divide by the devices, or for None, every device holds all of them.
    """
    count = devices()
    if count == 1:
        yield
        return
    mesh = keras.distribution.DeviceMesh((count,), [_BATCH])
    layout = keras.distribution.LayoutMap(mesh)
    if classes and classes % count == 0:
        layout[r"[^/]+/head/kernel"] = (None, _BATCH)  # the optimiser's state follows it
        layout[r"[^/]+/head/output"] = (None, _BATCH)
    elif classes:
        told = "%d classes do not divide by %d devices: each holds all class weights"
        logging.log_first_n(logging.WARNING, told, 1, classes, count)
    kept = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name=_BATCH)
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(kept)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, models are made, and predict, on one device."""
    kept = keras.distribution.distribution()
    if kept is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(kept)
