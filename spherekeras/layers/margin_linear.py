"""The combined margin of ArcFace's equation 4."""

from typing import Any

import keras

from spherekeras import margins
from spherekeras.layers.margin_head import ScaledHead

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class MarginLinear(ScaledHead):
    """Combined margin on a fixed scale: target logit `s·(cos(m1·θ + m2) - m3)`, others `s·cos θ`.

    One layer for three papers: SphereFace's factor m1, ArcFace's angle m2, CosFace's amount
    m3. Past π the target goes on falling, so a very wrong embedding is never rewarded.

    Args:
        units: number of classes.
        m1: factor on the angle, above 0; 1 for none. Never cut to a whole number.
        m2: angle added, in radians, from 0 to π; 0 for none.
        m3: amount taken from the cosine, at least 0; 0 for none.
        scale: s, the fixed length given to every embedding; above 0.
        gradient: "exact" or "detached", see `MarginHead`.
        **kwargs: of `NormalizedDense`.

    Input shape: embedding `(batch, dim)`, labels `(batch,)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: a margin or scale outside its range, or bad labels (see `MarginHead`).

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.MarginLinear(10, m2=0.5, scale=64.0)
    >>> tuple(head(np.ones((2, 8), "float32"), np.array([3, 7])).shape)
    (2, 10)

    Source: ArcFace, arXiv 1801.07698, equation 4.
    """

    def __init__(
        self,
        units: int,
        m1: float = 1.0,
        m2: float = 0.5,
        m3: float = 0.0,
        scale: float = 64.0,
        gradient: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, scale, gradient, **kwargs)
        if not (m1 > 0 and 0 <= m2 <= 3.1416 and m3 >= 0):
            raise ValueError(
                "`MarginLinear` expects m1 > 0, 0 <= m2 <= pi and m3 >= 0. Received: "
                f"m1={m1}, m2={m2}, m3={m3}."
            )
        self.m1, self.m2, self.m3 = float(m1), float(m2), float(m3)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return margins.combined(cosine, self.m1, self.m2, self.m3)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "m1": self.m1, "m2": self.m2, "m3": self.m3}
