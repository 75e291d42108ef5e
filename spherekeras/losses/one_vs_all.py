"""One binary decision a class in place of one choice among all classes."""

from typing import Any

import keras
from keras import ops

from spherekeras.losses.labels import in_range, label_row

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class OneVsAll(keras.losses.Loss):
    """Weighted logistic loss of the own class and of each other class, on logits.

    A row with logits z and label y has the loss

        weight·(α·log(1 + exp(-z_y)) + (1 - α)·Σ_{j≠y} log(1 + exp(z_j)))

    so the classes do not compete, and α sets the one positive against the many negatives.
    Margin, scale r and bias are in the logits; the paper's 1/r goes into `weight`.

    Args:
        alpha: λ of the paper, strictly between 0 and 1.
        weight: factor on the loss, above 0.
        **kwargs: of `keras.losses.Loss`.

    Call it with integer labels `(batch,)` or `(batch, 1)` and logits `(batch, units)`. A label
    out of range makes the loss NaN. Labels lie below 2^24, since Keras casts them to float32.

    Raises:
        ValueError: alpha or weight out of range, one-hot labels, or logits that are not 2-D.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> loss = sk.losses.OneVsAll(alpha=0.5)
    >>> round(float(loss(np.array([0]), np.zeros((1, 4), "float32"))), 4)  # 4·ln(2) / 2
    1.3863

    Source: SphereFace2, arXiv 2108.01513, equation 5.
    """

    def __init__(
        self, alpha: float = 0.7, weight: float = 1.0, name: str = "one_vs_all", **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", "float32")  # floatx may hold no label above 256
        super().__init__(name=name, **kwargs)
        if not 0 < alpha < 1 or not weight > 0:
            raise ValueError(
                "`OneVsAll` expects 0 < alpha < 1 and weight > 0. Received: "
                f"alpha={alpha}, weight={weight}."
            )
        self.alpha, self.weight = float(alpha), float(weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = label_row(self, y_true)
        if len(y_pred.shape) != 2:
            raise ValueError(
                "`OneVsAll` expects logits of shape `(batch, units)`. Received: "
                f"shape={tuple(y_pred.shape)}."
            )
        labels, factor = in_range(labels, ops.shape(y_pred)[1], self.weight)
        own = ops.take_along_axis(y_pred, labels[:, None], axis=1)[:, 0]
        others = ops.sum(ops.softplus(y_pred), axis=1) - ops.softplus(own)
        losses = self.alpha * ops.softplus(-own) + (1 - self.alpha) * others
        return losses * ops.cast(factor, losses.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "weight": self.weight}
