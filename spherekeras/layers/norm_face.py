"""Normalised softmax on a fixed scale."""

from typing import Any

import keras

from spherekeras.layers.margin_head import ScaledHead

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class NormFace(ScaledHead):
    """NormFace (also COCO): plain softmax on `s·cos θ`, no margin.

    The baseline of all angular margins: both embeddings and class weights on the sphere.

    Args:
        units: number of classes.
        scale: s, the length given to every embedding; above 0.
        **kwargs: of `MarginHead`.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> logits = sk.layers.NormFace(10)(np.ones((2, 8), "float32"), np.array([3, 7]))
    >>> bool(np.all(np.abs(logits) <= 30))
    True

    Source: NormFace, arXiv 1704.06369, equation 6; COCO, arXiv 1710.00870.
    """

    def __init__(self, units: int, scale: float = 30.0, **kwargs: Any) -> None:
        super().__init__(units, scale, **kwargs)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return cosine
