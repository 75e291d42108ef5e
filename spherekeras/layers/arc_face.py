"""An additive margin on the angle."""

from typing import Any

import keras

from spherekeras import margins
from spherekeras.layers.margin_head import ScaledHead

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class ArcFace(ScaledHead):
    """ArcFace: target logit `s·cos(θ + m)`.

    Args:
        units: number of classes.
        margin: m, added to the target's angle, in radians; from 0 to π.
        scale: s, the length given to every embedding; above 0.
        beyond: where θ + m passes π, the cosine would rise again. "monotone" goes on with
            `-2 - cos(θ + m)`; "linear" with `cos θ - m·sin m`, as the authors' code.
        **kwargs: of `MarginHead`.

    Raises:
        ValueError: a margin outside [0, π], or an unknown `beyond`.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head, x = sk.layers.ArcFace(10), np.ones((1, 8), "float32")
    >>> bool((head(x) - head(x, np.array([3])))[0, 3] > 0)
    True

    Source: ArcFace, arXiv 1801.07698, equation 3.
    """

    def __init__(
        self,
        units: int,
        margin: float = 0.5,
        scale: float = 64.0,
        beyond: str = "monotone",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, scale, **kwargs)
        if not 0 <= margin <= 3.1416 or beyond not in ("monotone", "linear"):
            raise ValueError(
                f"`{type(self).__name__}` expects 0 <= margin <= pi and beyond='monotone' or "
                f"'linear'. Received: margin={margin}, beyond={beyond!r}."
            )
        self.margin, self.beyond = float(margin), beyond

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return self.turned(cosine, self.margin)

    def turned(self, cosine: Tensor, margin: Tensor) -> Tensor:
        """The cosine of the angle plus a margin, past π as `beyond` says."""
        if self.beyond == "linear":
            return margins.arc_linear(cosine, margin)
        return margins.monotone_cosine(margins.angle(cosine) + margin)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "beyond": self.beyond}
