"""Triplet loss: an embedding nearer to its own identity than to any other."""

import math
from typing import Any

import keras
from keras import ops

from spherekeras.losses.labels import label_row

Tensor = Any
_SMALL = 1e-4  # a shorter embedding has no direction worth a gradient


@keras.saving.register_keras_serializable("spherekeras")
class TripletLoss(keras.losses.Loss):
    """`max(0, ‖a - p‖² - ‖a - n‖² + m)` over triplets that are mined from each batch.

    It needs no head: compile the backbone itself with it, and `fit(images, labels)`. The
    embeddings `(batch, dim)` are normalised here. Each picture is an anchor a; p is another of
    its identity, n one of another identity, both of the same batch (with several replicas, of
    the same replica). So batches must hold several pictures an identity, as 8 identities of 4;
    an anchor without p or n has loss 0.

    | mining | triplets of an anchor | memory |
    |---|---|---|
    | "semi-hard" | each p with the nearest n farther than p, else the farthest n | batch³ |
    | "hard" | the farthest p with the nearest n | batch² |
    | "all" | each p with each n | batch³ |

    An anchor's loss is the mean over its triplets, zeros included.

    Args:
        margin: m, above 0, in squared distances, which lie in [0, 4].
        mining: "semi-hard", "hard" or "all".
        **kwargs: of `keras.losses.Loss`.

    Labels are integers `(batch,)` or `(batch, 1)` below 2^24: Keras casts them to float32.

    Raises:
        ValueError: margin or mining out of range, one-hot labels, or embeddings that are not 2-D.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> x = np.array([[1, 0], [0, 1], [0.6, 0.8]], "float32")
    >>> loss = sk.losses.TripletLoss(margin=0.2, mining="hard")
    >>> round(float(loss(np.array([0, 0, 1]), x)), 4)  # (1.4 + 1.8 + 0) / 3
    1.0667

    Source: FaceNet, arXiv 1503.03832, equations 3 and 4; "hard": Hermans et al., In Defense of
    the Triplet Loss for Person Re-Identification, arXiv 1703.07737, equation 5.
    """

    def __init__(
        self,
        margin: float = 0.2,
        mining: str = "semi-hard",
        name: str = "triplet",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")  # floatx may hold no label above 256
        super().__init__(name=name, **kwargs)
        if not margin > 0 or mining not in ("semi-hard", "hard", "all"):
            raise ValueError(
                "`TripletLoss` expects margin > 0 and mining 'semi-hard', 'hard' or 'all'. "
                f"Received: margin={margin}, mining={mining!r}."
            )
        self.margin, self.mining = float(margin), mining

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = label_row(self, y_true)
        if len(y_pred.shape) != 2:
            raise ValueError(
                "`TripletLoss` expects embeddings of shape `(batch, dim)`. Received: "
                f"shape={tuple(y_pred.shape)}."
            )
        norm = ops.sqrt(ops.maximum(ops.sum(ops.square(y_pred), 1, keepdims=True), _SMALL**2))
        x = y_pred / norm
        square = 2 - 2 * ops.matmul(x, ops.transpose(x))
        row = ops.arange(ops.shape(labels)[0])
        same = labels[:, None] == labels
        positive, negative = ops.logical_and(same, row[:, None] != row), ops.logical_not(same)
        if self.mining == "all":
            losses = self._hinge(square[:, :, None], square[:, None, :])
            losses = _mean(losses, negative[:, None, :])
            return _mean(losses, ops.logical_and(positive, _any(negative)))
        if self.mining == "hard":
            p = ops.argmax(ops.where(positive, square, -math.inf), axis=1)[:, None]
            n = ops.argmin(ops.where(negative, square, math.inf), axis=1)[:, None]
            chosen = ops.take_along_axis(square, p, axis=1)
            valid = ops.logical_and(_any(positive), _any(negative))
        else:
            n, chosen = _semi_hard(ops.stop_gradient(square), negative), square
            valid = ops.logical_and(positive, _any(negative))
        return _mean(self._hinge(chosen, ops.take_along_axis(square, n, axis=1)), valid)

    def _hinge(self, positive: Tensor, negative: Tensor) -> Tensor:
        return ops.maximum(positive - negative + self.margin, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "mining": self.mining}


def _semi_hard(square: Tensor, negative: Tensor) -> Tensor:
    """The column `(batch, batch)` of the negative to each anchor and positive."""
    negatives = ops.where(negative, square, math.inf)[:, None, :]
    # Nearer negatives rank behind all farther ones, the farthest of them first: 9 - 4 > 4.
    nearer = negatives <= square[:, :, None]
    return ops.argmin(ops.where(nearer, 9 - negatives, negatives), axis=2)


def _any(mask: Tensor) -> Tensor:
    return ops.any(mask, axis=1, keepdims=True)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the last axis where the mask is true, 0 where it is nowhere."""
    weights = ops.cast(mask, values.dtype)
    return ops.sum(values * weights, axis=-1) / ops.maximum(ops.sum(weights, axis=-1), 1.0)
