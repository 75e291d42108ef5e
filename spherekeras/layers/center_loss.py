"""Softmax, and a pull of every embedding towards the centre of its class."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.products import with_rows
from spherekeras.layers.softmax_linear import SoftmaxLinear

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class CenterLoss(SoftmaxLinear):
    """Softmax + centre loss: training adds `λ/2·mean ‖x - c_y‖²` to the loss.

    Softmax parts the classes but leaves each one wide; the added term draws them together. The
    centres c start at 0 and are no part of the gradient. After the loss of a training step, of
    a batch with n_j embeddings of class j, they move by

        c_j += α·Σ (x - c_j) / (1 + n_j)

    and at no other time. With several replicas each moves by the mean of what they saw.

    Args:
        units: number of classes.
        weight: λ, at least 0.
        rate: α, above 0 and at most 1.
        **kwargs: of `SoftmaxLinear`.

    The weight `centers` has shape `(units, dim)`.

    Raises:
        ValueError: a λ or α out of range, and no labels in training.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.CenterLoss(2, weight=1.0)
    >>> logits = head(np.array([[3.0, 4.0]], "float32"), np.array([1]), training=True)
    >>> float(head.losses[0])  # 25 / 2
    12.5
    >>> head.centers.numpy().tolist()  # 0.5·(3, 4) / 2
    [[0.0, 0.0], [0.75, 1.0]]

    Source: Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition,
    ECCV 2016, equations 2 to 5; its sums over the batch are means here.
    """

    def __init__(self, units: int, weight: float = 0.003, rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if not weight >= 0 or not 0 < rate <= 1:
            raise ValueError(
                "`CenterLoss` expects weight >= 0 and 0 < rate <= 1. Received: "
                f"weight={weight}, rate={rate}."
            )
        self.weight, self.rate = float(weight), float(rate)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape)
        self.centers = self.add_weight(
            name="centers",
            shape=(self.units, embedding_shape[-1]),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        embedding, labels = self.checked(embedding, labels, training)
        if training:
            gap = embedding - ops.stop_gradient(ops.take(self.centers, labels, axis=0))
            mean = ops.mean(ops.sum(ops.square(gap), axis=1))
            self.add_loss(0.5 * self.weight * with_rows(gap, mean, 0.0))
            gap = ops.stop_gradient(gap)
            sums = ops.segment_sum(gap, labels, self.units)
            counts = ops.segment_sum(ops.ones_like(gap[:, :1]), labels, self.units)
            self.centers.assign(self.centers + self.rate * sums / (1 + counts))
        return self.logits(embedding)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "rate": self.rate}
