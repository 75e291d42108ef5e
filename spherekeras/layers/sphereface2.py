"""One binary question a class in place of one softmax over all."""

import math
from typing import Any

import keras
from keras import ops

from spherekeras.layers.margin_head import ScaledHead
from spherekeras.losses.one_vs_all import OneVsAll

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class SphereFace2(ScaledHead):
    """SphereFace2: logits `r·(g(cos θ_y) - m) + b` and `r·(g(cos θ_j) + m) + b`.

    Training and use ask the same: does this embedding belong to this class or not? Each class
    is a binary classifier, classes do not compete in a softmax, and the loss sees a class
    alone. `g(c) = 2·((c + 1)/2)^t - 1` spreads similar cosines apart. The bias b is one learned
    number, begun where positives and negatives weigh the same.

    Compile with `head.loss()`, the loss of `spherekeras.losses.OneVsAll`.

    Args:
        units: number of classes.
        margin: m, at least 0, on both sides of the boundary.
        scale: r, above 0.
        power: t, at least 1.
        alpha: weight of the positive class against the negatives, in (0, 1); 0.8 for many
            thousand classes.
        loss_weight: lw; the loss is multiplied with lw/r.
        gradient: "exact" or "detached", see `MarginHead`.
        **kwargs: of `MarginHead`.

    Raises:
        ValueError: a setting outside its range.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.SphereFace2(10)
    >>> tuple(head(np.ones((2, 8), "float32"), np.array([3, 7])).shape)
    (2, 10)
    >>> round(float(head.bias.numpy()), 4)
    12.9502

    Source: SphereFace2, arXiv 2108.01513, section 3; the bias's start: its appendix.
    """

    def __init__(
        self,
        units: int,
        margin: float = 0.4,
        scale: float = 40.0,
        power: float = 3.0,
        alpha: float = 0.7,
        loss_weight: float = 50.0,
        gradient: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, scale, gradient, **kwargs)
        if not (margin >= 0 and power >= 1 and 0 < alpha < 1 and loss_weight > 0 and units > 1):
            raise ValueError(
                "`SphereFace2` expects units > 1, margin >= 0, power >= 1, 0 < alpha < 1 and "
                f"loss_weight > 0. Received: units={units}, margin={margin}, power={power}, "
                f"alpha={alpha}, loss_weight={loss_weight}."
            )
        if self.sampling is not None:
            raise ValueError(
                "`SphereFace2` has no sampled form: its classes do not share a softmax that a "
                f"sample could stand for. Received: sampling={self.sampling}. Leave it out."
            )
        self.margin, self.power = float(margin), float(power)
        self.alpha, self.loss_weight = float(alpha), float(loss_weight)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape, labels_shape)
        self.bias = self.add_weight(
            name="bias",
            shape=(),
            initializer=keras.initializers.Constant(self._balanced_bias()),
            autocast=False,
        )

    def loss(self) -> OneVsAll:
        return OneVsAll(self.alpha, self.loss_weight / self.scale)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return self._spread(cosine) - self.margin

    @property
    def keeps_others(self) -> bool:
        return False

    def others(self, cosines: Tensor, cosine: Tensor, training: bool) -> Tensor:
        return self._spread(cosines) + self.margin

    def plain(self, logits: Tensor, scale: Tensor) -> Tensor:
        return scale * self._spread(logits / scale) + ops.convert_to_tensor(self.bias)

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        logits = super().call(embedding, labels, training)
        return logits if labels is None else logits + ops.convert_to_tensor(self.bias)

    def get_config(self) -> dict[str, Any]:
        own = {
            "margin": self.margin,
            "power": self.power,
            "alpha": self.alpha,
            "loss_weight": self.loss_weight,
        }
        return {**super().get_config(), **own}

    def _spread(self, cosine: Tensor) -> Tensor:
        half = ops.maximum((cosine + 1.0) / 2.0, 0.0)
        return 2.0 * ops.power(half, self.power) - 1.0

    def _balanced_bias(self) -> float:
        z = self.alpha / ((1.0 - self.alpha) * (self.units - 1))
        own = self.scale * (2.0 * 0.5**self.power - 1.0 - self.margin)
        other = self.scale * (2.0 * 0.5**self.power - 1.0 + self.margin)
        root = math.sqrt((1.0 - z) ** 2 + 4.0 * z * math.exp(own - other))
        if z < 1.0:
            return math.log(2.0 * z) - other - math.log(1.0 - z + root)
        return math.log(z - 1.0 + root) - math.log(2.0) - own  # the same; above, it would cancel
