"""A-Softmax with classes spread over the sphere."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.a_softmax import ASoftmax
from spherekeras.layers.products import norm_of

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class SphereFacePlus(ASoftmax):
    """SphereFace+: A-Softmax plus the hyperspherical energy of the batch's class weights.

    A-Softmax pulls embeddings to their class; the energy
    `weight·mean_{i<j} arccos(w_i·w_j)^(-2)` pushes the classes of a batch apart.

    Args:
        units: number of classes.
        margin: m ≥ 1.
        annealing: as in `ASoftmax`.
        energy: weight of the term, at least 0; 0.1 to 1 in the paper.
        **kwargs: of `ASoftmax`.

    Raises:
        ValueError: an energy below 0.

    Source: Minimum Hyperspherical Energy, arXiv 1805.09298, section 3.5.
    """

    def __init__(self, units: int, energy: float = 1.0, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if not energy >= 0:
            raise ValueError(f"`SphereFacePlus` expects energy >= 0. Received: energy={energy}.")
        self.energy = float(energy)

    def penalty(self, norm: Tensor, labels: Tensor) -> Tensor:
        kernel = ops.take(ops.convert_to_tensor(self.kernel), labels, axis=1)
        unit = kernel / norm_of(kernel, axis=0)
        other = ops.cast(labels[:, None] != labels[None, :], unit.dtype)
        # A class that is in the batch n times stands in n rows, each of which counts 1/n.
        share = 1.0 / ops.sum(1.0 - other, axis=1, keepdims=True)
        theta = margins.angle(ops.matmul(ops.transpose(unit), unit))
        pairs = other * share * ops.transpose(share)
        energy = ops.sum(pairs * ops.power(ops.maximum(theta, 1e-2), -2.0))
        return self.energy * energy / ops.maximum(ops.sum(pairs), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "energy": self.energy}
