"""SphereFace Revived: real margins and honest lengths."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.margin_head import ScaledHead
from spherekeras.layers.products import with_rows
from spherekeras.losses.cross_entropy import CrossEntropy

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class SphereFaceR(ScaledHead):
    """SphereFace-R: three multiplicative margins, three treatments of the embedding's length.

    | version | target ψ(θ) | others η(θ) |
    |---|---|---|
    | "v0" | A-Softmax's ψ for any real m | cos θ |
    | "v1" | cos(min(mθ, π)) | cos θ |
    | "v2" | cos θ | cos(θ/m) |

    | normalization | factor on all cosines | loss |
    |---|---|---|
    | "none" | ‖x‖ | lw·CE |
    | "hard" | s | lw·CE/s |
    | "soft" | ‖x‖ | lw·CE/s + mean(t·(‖x‖ - s)²) |

    The weight of the cross-entropy is in `head.loss()`: compile with that. The soft term is
    added by the layer.

    Args:
        units: number of classes.
        margin: m ≥ 1.
        version: "v0", "v1" or "v2".
        normalization: "none", "hard" or "soft".
        scale: s, above 0.
        loss_weight: lw, above 0.
        soft_weight: t, at least 0.
        soft_power: 2 as in the paper, or 1 for |‖x‖ - s| as in the authors' code.
        gradient: "detached" as in the authors' code, or "exact".
        **kwargs: of `MarginHead`.

    Raises:
        ValueError: a setting outside its range.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.SphereFaceR(10, margin=1.4, version="v2", scale=60.0)
    >>> tuple(head(np.ones((2, 8), "float32"), np.array([3, 7])).shape)
    (2, 10)

    Source: SphereFace Revived, arXiv 2109.05565, sections 3 and 4.
    """

    def __init__(
        self,
        units: int,
        margin: float = 1.5,
        version: str = "v1",
        normalization: str = "hard",
        scale: float = 30.0,
        loss_weight: float = 50.0,
        soft_weight: float = 0.01,
        soft_power: int = 2,
        gradient: str = "detached",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, scale, gradient, **kwargs)
        fits = (
            margin >= 1
            and version in ("v0", "v1", "v2")
            and normalization in ("none", "hard", "soft")
            and loss_weight > 0
            and soft_weight >= 0
            and soft_power in (1, 2)
        )
        if not fits:
            raise ValueError(
                "`SphereFaceR` expects margin >= 1, version 'v0', 'v1' or 'v2', normalization "
                "'none', 'hard' or 'soft', loss_weight > 0, soft_weight >= 0 and soft_power 1 or "
                f"2. Received: margin={margin}, version={version!r}, "
                f"normalization={normalization!r}, loss_weight={loss_weight}, "
                f"soft_weight={soft_weight}, soft_power={soft_power}."
            )
        self.margin, self.version, self.normalization = margin, version, normalization
        self.loss_weight = float(loss_weight)
        self.soft_weight, self.soft_power = float(soft_weight), int(soft_power)

    def loss(self) -> CrossEntropy:
        free = self.normalization == "none"
        return CrossEntropy(self.loss_weight / (1.0 if free else self.scale))

    def scale_of(self, norm: Tensor) -> Tensor:
        return self.scale if self.normalization == "hard" else norm

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        if self.version == "v0":
            return margins.psi(cosine, self.margin)
        if self.version == "v1":
            return margins.stopped_cosine(self.margin * margins.angle(cosine))
        return cosine

    @property
    def keeps_others(self) -> bool:
        return self.version != "v2"

    def others(self, cosines: Tensor, cosine: Tensor, training: bool) -> Tensor:
        return ops.cos(margins.angle(cosines) / self.margin)

    def penalty(self, norm: Tensor, labels: Tensor) -> Tensor | None:
        if self.normalization != "soft":
            return None
        gap = ops.abs(norm - self.scale)
        mean = ops.mean(gap if self.soft_power == 1 else ops.square(gap))
        return self.soft_weight * with_rows(norm, mean, 0.0)

    def get_config(self) -> dict[str, Any]:
        own = {
            "margin": self.margin,
            "version": self.version,
            "normalization": self.normalization,
            "loss_weight": self.loss_weight,
            "soft_weight": self.soft_weight,
            "soft_power": self.soft_power,
        }
        return {**super().get_config(), **own}
