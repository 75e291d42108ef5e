"""Hard negatives weighted more as training goes on."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.arc_face import ArcFace
from spherekeras.layers.products import with_rows

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class CurricularFace(ArcFace):
    """CurricularFace: ArcFace, and a negative closer than the target becomes `cos·(t + cos)`.

    t follows the mean target cosine from 0 (moving average of 0.99 over training steps): easy
    examples first, hard ones later. It is a weight of the layer; on several replicas each moves it
    by its own part of the batch within a step, and the mean is kept.

    Args:
        units: number of classes.
        margin: m, added to the target's angle, in radians.
        scale: s, above 0.
        **kwargs: of `ArcFace`; `beyond` is "linear" by default, as in the authors' code.

    Source: CurricularFace, arXiv 2004.00288, equations 8 to 11.
    """

    def __init__(
        self,
        units: int,
        margin: float = 0.5,
        scale: float = 64.0,
        beyond: str = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, margin, scale, beyond, **kwargs)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape, labels_shape)
        self.t = self.add_weight(
            name="t",
            shape=(),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    @property
    def keeps_others(self) -> bool:
        return False

    def others(self, cosines: Tensor, cosine: Tensor, training: bool) -> Tensor:
        t = ops.convert_to_tensor(self.t)
        if training:
            t = with_rows(cosine, 0.01 * ops.stop_gradient(ops.mean(cosine)) + 0.99 * t, t)
            self.t.assign(t)
        hard = cosines > ops.cos(margins.angle(cosine) + self.margin)  # however the target goes on
        return ops.where(hard, cosines * (t + cosines), cosines)
