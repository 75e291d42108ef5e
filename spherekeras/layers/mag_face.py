"""A margin that grows with the embedding's length."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.arc_face import ArcFace
from spherekeras.layers.margin_head import is_list
from spherekeras.layers.products import with_rows

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class MagFace(ArcFace):
    """MagFace: ArcFace with a margin m(‖x‖), and a term that rewards long embeddings.

    The length comes to say how good a picture is: `m(a)` rises linearly from `margins[0]` to
    `margins[1]` over `a = clip(‖x‖, *lengths)`, and training adds
    `λ_g·mean(a / lengths[1]² + 1/a)`.

    Args:
        units: number of classes.
        margins: lowest and highest margin, in radians.
        lengths: the lengths at which they are reached.
        regularization: λ_g, at least 0.
        scale: s, above 0.
        **kwargs: of `ArcFace`.

    Raises:
        ValueError: margins or lengths that do not rise, or a λ_g below 0.

    Source: MagFace, arXiv 2103.06627, equations 3 and 5.
    """

    def __init__(
        self,
        units: int,
        margins: tuple[float, float] = (0.45, 0.8),
        lengths: tuple[float, float] = (10.0, 110.0),
        regularization: float = 35.0,
        scale: float = 64.0,
        **kwargs: Any,
    ) -> None:
        pairs = is_list(margins, 2) and is_list(lengths, 2)
        rise = pairs and 0 <= margins[0] <= margins[1] <= 3.1416 and 0 < lengths[0] < lengths[1]
        if not rise or not regularization >= 0:
            raise ValueError(
                "`MagFace` expects margins=(low, high) and lengths=(low, high) that rise, and "
                "regularization >= 0. "
                f"Received: margins={margins}, lengths={lengths}, regularization={regularization}."
            )
        super().__init__(units, margins[0], scale, **kwargs)
        self.margins, self.lengths = tuple(margins), tuple(lengths)
        self.regularization = float(regularization)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        low, high = self.lengths
        share = (ops.clip(norm, low, high) - low) / (high - low)
        return self.turned(cosine, self.margins[0] + share * (self.margins[1] - self.margins[0]))

    def penalty(self, norm: Tensor, labels: Tensor) -> Tensor:
        length = ops.clip(norm, *self.lengths)
        mean = ops.mean(length / self.lengths[1] ** 2 + 1.0 / length)
        return self.regularization * with_rows(norm, mean, 0.0)

    def get_config(self) -> dict[str, Any]:
        own = {
            "margins": self.margins,
            "lengths": self.lengths,
            "regularization": self.regularization,
        }
        config = {**super().get_config(), **own}
        del config["margin"]  # `margins` stands for it
        return config
