"""An additive margin on the cosine."""

from typing import Any

import keras

from spherekeras.layers.margin_head import ScaledHead

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class CosFace(ScaledHead):
    """CosFace (also AM-Softmax): target logit `s·(cos θ - m)`.

    Args:
        units: number of classes.
        margin: m, taken from the target's cosine; at least 0.
        scale: s, the length given to every embedding; above 0.
        **kwargs: of `MarginHead`.

    Raises:
        ValueError: a margin below 0.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head, x = sk.layers.CosFace(10), np.ones((1, 8), "float32")
    >>> round(float((head(x) - head(x, np.array([3])))[0, 3]), 3)  # 64 * 0.35
    22.4

    Source: CosFace, arXiv 1801.09414, equation 4; AM-Softmax, arXiv 1801.05599.
    """

    def __init__(
        self, units: int, margin: float = 0.35, scale: float = 64.0, **kwargs: Any
    ) -> None:
        super().__init__(units, scale, **kwargs)
        if not margin >= 0:
            raise ValueError(f"`CosFace` expects margin >= 0. Received: margin={margin}.")
        self.margin = float(margin)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return cosine - self.margin

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin}
