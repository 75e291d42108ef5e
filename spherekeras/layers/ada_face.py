"""A margin that follows picture quality."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.margin_head import ScaledHead
from spherekeras.layers.products import with_rows

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class AdaFace(ScaledHead):
    """AdaFace: target logit `s·(cos(θ - m·ẑ) - (m + m·ẑ))`, ẑ the normalised length.

    The embedding's length stands for picture quality: `ẑ = clip(h·(‖x‖ - μ)/(σ + 1e-3), -1, 1)`
    with μ and σ moving averages over training batches. Hard pictures of good quality are
    stressed, unrecognisable ones are not. No gradient flows through ẑ.

    Args:
        units: number of classes.
        margin: m, at least 0.
        concentration: h, above 0.
        momentum: share of the present batch in the moving averages, from 0 to 1.
        scale: s, above 0.
        **kwargs: of `MarginHead`.

    Raises:
        ValueError: a setting outside its range.

    Source: AdaFace, arXiv 2204.00964, equations 15 to 18.
    """

    def __init__(
        self,
        units: int,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, scale, **kwargs)
        if not (0 <= margin <= 1.5708 and concentration > 0 and 0 < momentum <= 1):
            raise ValueError(
                "`AdaFace` expects 0 <= margin <= pi/2, concentration > 0 and 0 < momentum <= 1. "
                f"Received: margin={margin}, concentration={concentration}, momentum={momentum}."
            )
        self.margin, self.concentration = float(margin), float(concentration)
        self.momentum = float(momentum)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape, labels_shape)
        state: dict[str, Any] = {"shape": (), "trainable": False, "autocast": False}
        start = keras.initializers.Constant
        self.mean = self.add_weight(
            name="mean", initializer=start(20.0), aggregation="mean", **state
        )
        self.std = self.add_weight(
            name="std", initializer=start(100.0), aggregation="mean", **state
        )

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        length = ops.stop_gradient(ops.clip(norm, 1e-3, 100.0))
        mean, std = ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.std)
        if training:
            keep = 1.0 - self.momentum
            mean = with_rows(length, self.momentum * ops.mean(length) + keep * mean, mean)
            std = with_rows(length, self.momentum * ops.std(length) + keep * std, std)
            self.mean.assign(mean)
            self.std.assign(std)
        quality = ops.clip(self.concentration * (length - mean) / (std + 1e-3), -1.0, 1.0)
        theta = margins.angle(cosine) - self.margin * quality
        return margins.even_cosine(theta) - self.margin * (1.0 + quality)

    def get_config(self) -> dict[str, Any]:
        own = {
            "margin": self.margin,
            "concentration": self.concentration,
            "momentum": self.momentum,
        }
        return {**super().get_config(), **own}
