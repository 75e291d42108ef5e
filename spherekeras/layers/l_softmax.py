"""Large-margin softmax, A-Softmax's forerunner."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.a_softmax import ASoftmax
from spherekeras.layers.products import norm_of, own_entries, without_own

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class LSoftmax(ASoftmax):
    """L-Softmax: A-Softmax whose class weights keep their length: `‖W_y‖·‖x‖·ψ(θ)`.

    Args:
        units: number of classes.
        margin: m ≥ 1, in the paper 2 to 4.
        annealing: as in `ASoftmax`.
        **kwargs: of `ASoftmax`.

    Source: Large-Margin Softmax Loss, arXiv 1612.02295, equations 4 to 6.
    """

    gradients = ("exact", "detached")

    def products(self, rows: Tensor, kernel: Tensor) -> Tensor:
        return ops.matmul(rows, kernel)

    def products_with_own(
        self, rows: Tensor, kernel: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        products, lengths = ops.matmul(rows, kernel), norm_of(kernel, axis=0)[0]
        own_scale = scale * ops.take(lengths, labels)[:, None]
        own = own_entries(products, labels)
        return without_own(products, labels), own, own_scale
