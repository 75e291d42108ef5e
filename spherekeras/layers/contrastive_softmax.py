"""Softmax, and a pull or push between every two embeddings of a batch."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.softmax_linear import SoftmaxLinear

Tensor = Any
_SMALL = 1e-6  # a shorter distance has no direction worth a gradient


@keras.saving.register_keras_serializable("spherekeras")
class ContrastiveSoftmax(SoftmaxLinear):
    """Softmax + contrastive loss: training adds λ times the mean over all pairs of the batch.

    A pair at distance d counts ½·d² if both are of one class, else ½·max(0, m - d)². Batches
    without two pictures of one class only push: draw several of each. With several replicas
    the pairs are those within one replica.

    Args:
        units: number of classes.
        weight: λ, at least 0.
        margin: m, above 0, in the unit of the embeddings, which are not normalised: of the order
            of the distances that the softmax alone arrives at.
        **kwargs: of `SoftmaxLinear`.

    Raises:
        ValueError: a λ or m out of range, and no labels in training.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.ContrastiveSoftmax(2, weight=1.0, margin=10.0)
    >>> x = np.array([[0.0, 0.0], [3.0, 4.0]], "float32")
    >>> logits = head(x, np.array([0, 1]), training=True)
    >>> round(float(head.losses[0]), 4)  # (10 - 5)² / 2
    12.5

    Source: Sun et al., Deep Learning Face Representation by Joint Identification-Verification,
    arXiv 1406.4773, the verification signal; its margin is searched for, here it is fixed.
    """

    def __init__(
        self, units: int, weight: float = 0.05, margin: float = 10.0, **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        if not weight >= 0 or not margin > 0:
            raise ValueError(
                "`ContrastiveSoftmax` expects weight >= 0 and margin > 0. Received: "
                f"weight={weight}, margin={margin}."
            )
        self.weight, self.margin = float(weight), float(margin)

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        embedding, labels = self.checked(embedding, labels, training)
        if training:
            self.add_loss(self.weight * self._contrast(embedding, labels))
        return self.logits(embedding)

    def _contrast(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x - ops.stop_gradient(ops.mean(x, axis=0))  # distances stay, round-off shrinks
        square = ops.sum(ops.square(x), axis=1, keepdims=True)
        square = square + ops.transpose(square) - 2 * ops.matmul(x, ops.transpose(x))
        square = ops.maximum(square, _SMALL**2)
        push = ops.square(ops.maximum(self.margin - ops.sqrt(square), 0.0))
        terms = 0.5 * ops.where(labels[:, None] == labels, square, push)
        row = ops.arange(ops.shape(x)[0])
        pair = ops.cast(row[:, None] != row, terms.dtype)
        return ops.sum(terms * pair) / ops.maximum(ops.sum(pair), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "margin": self.margin}
