"""Cross-entropy over the logits of a head, all classes or a sample of them."""

from typing import Any

import keras
from keras import ops

from spherekeras.losses.labels import entries, in_range, label_row, own_columns, positions
from spherekeras.one_pass import one_pass

Tensor = Any


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns `log Σ_j e^{z_j} - z_y` a row, `(batch,)`; labels int32 `(batch,)` in range.

    On the TensorFlow backend the gradient is written out, which halves the passes over the
    logits of its own operation; elsewhere it is the stock one.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    @ops.custom_gradient
    def losses(logits: Tensor) -> Any:
        top = ops.max(logits, axis=1, keepdims=True)
        powers = _powers(logits, top)
        total = ops.sum(powers, axis=1)

        def gradient(upstream: Tensor) -> Tensor:
            return _shares(powers, total, upstream, labels)

        return ops.log(total) + top[:, 0] - entries(logits, labels), gradient

    return losses(logits)


@one_pass()
def _powers(logits: Tensor, top: Tensor) -> Tensor:
    return ops.exp(logits - top)


def _scattered(powers: Tensor, total: Tensor, upstream: Tensor, labels: Tensor) -> Tensor:
    """As `_shares`."""
    shares = powers * (upstream / total)[:, None]
    return ops.scatter_update(shares, positions(labels), -upstream, reduction="add")


@one_pass(otherwise=_scattered)
def _shares(powers: Tensor, total: Tensor, upstream: Tensor, labels: Tensor) -> Tensor:
    """The gradient by the logits: each class's share, less one at the label, times `upstream`."""
    mine = labels[:, None] == ops.arange(ops.shape(powers)[1], dtype=labels.dtype)
    shares = powers * (upstream / total)[:, None]
    return ops.where(mine, shares - upstream[:, None], shares)


@keras.saving.register_keras_serializable("spherekeras")
class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of a head's logits and integer labels, times a weight.

    On logits `(batch, units)` with weight 1 it is
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. What that one cannot read are
    the logits of a head with `sampling`, `(batch, shards, columns, 1)`: there the columns are a
    sample of the classes, and row i's own class is column `i % b` of shard `i // b`, where b is
    `batch / shards`, rounded up. A label out of range makes the loss NaN. Labels lie below 2^24,
    since Keras casts them to float32.

    Args:
        weight: factor on the loss, above 0 (SphereFace-R: `head.loss()` sets it).
        **kwargs: of `keras.losses.Loss`.

    Raises:
        ValueError: a weight that is not above 0, or one-hot labels.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> loss = sk.losses.CrossEntropy()
    >>> round(float(loss(np.array([0]), np.array([[0.0, 0.0]], "float32"))), 4)  # ln 2
    0.6931
    """

    def __init__(self, weight: float = 1.0, name: str = "cross_entropy", **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")  # floatx may hold no label above 256
        super().__init__(name=name, **kwargs)
        if not weight > 0:
            raise ValueError(f"`CrossEntropy` expects weight > 0. Received: weight={weight}.")
        self.weight = float(weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = label_row(self, y_true)
        if len(y_pred.shape) == 4:
            batch, shards, columns = ops.shape(y_pred)[:3]
            labels = own_columns(batch, shards, columns)
            y_pred = ops.reshape(y_pred, (batch, -1))
        labels, factor = in_range(labels, ops.shape(y_pred)[1], self.weight)
        return cross_entropy(labels, y_pred) * ops.cast(factor, y_pred.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}
