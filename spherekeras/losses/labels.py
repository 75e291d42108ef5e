"""Labels as a loss gets them, and the one entry a row that they point at."""

import math
from typing import Any

import keras
from keras import ops

Tensor = Any


def label_row(loss: keras.losses.Loss, labels: Tensor) -> Tensor:
    """Returns integer labels `(batch,)` or `(batch, 1)` as `(batch,)` int32.

    Keras has cast them to the loss's float dtype by now.

    Raises:
        ValueError: labels of another shape.
    """
    shape = tuple(labels.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(
            f"`{type(loss).__name__}` expects integer labels of shape `(batch,)`. Received: "
            f"shape={shape}. For one-hot labels pass `ops.argmax(labels, axis=-1)`."
        )
    return ops.reshape(ops.cast(labels, "int32"), (-1,))


def in_range(labels: Tensor, units: Tensor, value: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns labels with 0 in place of those outside `[0, units)`, and a factor a row for the
    loss: `value`, and NaN for those, so that a wrong label is never silent.
    """
    inside = ops.logical_and(labels >= 0, labels < units)
    return ops.where(inside, labels, 0), ops.where(inside, value, math.nan)


def own_columns(batch: Tensor, shards: int, columns: Tensor) -> Tensor:
    """The column of each row's own class among sampled ones, int32 `(batch,)`.

    Of `shards` times `columns` columns, each shard's first hold the classes of as many rows: row
    i's own is column `i % b` of shard `i // b`, where b is `batch / shards`, rounded up.
    """
    rows, each = ops.arange(batch, dtype="int32"), -(-batch // shards)
    return rows // each * columns + rows % each


def positions(labels: Tensor) -> Tensor:
    """(row, label) of each row, `(batch, 2)`, for `ops.scatter_update`."""
    return ops.stack([ops.arange(ops.shape(labels)[0], dtype="int32"), labels], axis=1)


def entries(matrix: Tensor, labels: Tensor) -> Tensor:
    """The entry of each row at its label, `(batch,)`, by one look a row and no gradient's sake."""
    rows = ops.cast(ops.arange(ops.shape(labels)[0]), "int64")
    flat = rows * ops.cast(ops.shape(matrix)[1], "int64") + ops.cast(labels, "int64")
    return ops.take(ops.reshape(matrix, (-1,)), flat)
