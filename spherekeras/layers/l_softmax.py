"""Large-margin softmax, A-Softmax's forerunner."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.a_softmax import ASoftmax
from spherekeras.layers.normalized_dense import norm_of

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

    def scale_of(self, norm: Tensor) -> Tensor:
        return norm * norm_of(ops.convert_to_tensor(self.kernel), axis=0)
