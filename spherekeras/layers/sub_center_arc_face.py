"""Several centres a class."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.arc_face import ArcFace
from spherekeras.layers.products import own_entries, without_own

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class SubCenterArcFace(ArcFace):
    """Sub-centre ArcFace: K centres a class, the nearest counts.

    Noisy labels and odd pictures gather at a centre of their own and leave the main one clean.

    Args:
        units: number of classes.
        centers: K ≥ 1; the kernel has `units·K` columns, the K of a class side by side.
        margin, scale: as in `ArcFace`.
        **kwargs: of `ArcFace`.

    Raises:
        ValueError: K below 1.

    Source: Sub-center ArcFace, ECCV 2020, equation 3.
    """

    def __init__(self, units: int, centers: int = 3, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if int(centers) != centers or centers < 1:
            raise ValueError(
                f"`SubCenterArcFace` expects centers >= 1. Received: centers={centers}."
            )
        self.centers = int(centers)

    @property
    def columns(self) -> int:
        return self.units * self.centers

    def angles(self, embedding: Tensor) -> Tensor:
        """Returns the angles to each class's nearest centre, `(batch, units)`, in radians."""
        every = super().angles(embedding)
        return ops.min(ops.reshape(every, (-1, self.units, self.centers)), axis=2)

    def products(self, rows: Tensor, kernel: Tensor) -> Tensor:
        return self._nearest(super().products(rows, kernel))

    def products_with_own(
        self, rows: Tensor, kernel: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        products = self.products(rows, kernel)
        return without_own(products, labels), own_entries(products, labels), scale

    def _nearest(self, products: Tensor) -> Tensor:
        classes = (ops.shape(products)[0], -1, self.centers)
        return ops.max(ops.reshape(products, classes), axis=2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "centers": self.centers}
