"""A dense layer on the sphere."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.head import Head
from spherekeras.layers.products import norm_of

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class NormalizedDense(Head):
    """Cosines between embeddings and class weights: `x·W / (‖x‖·‖W_j‖)`, no bias.

    What every head with a margin starts from. It computes in float32 under any dtype policy,
    since a half-precision cosine has no digits left for the angle.

    Args:
        units: number of classes.
        kernel_initializer: of the class weights `(dim, units)`; only their direction counts.
        **kwargs: of `keras.layers.Layer`. `dtype` may be "float32" or "float64".

    Input shape: `(batch, dim)`; labels may be given and change nothing. Output shape:
    `(batch, units)`, values in [-1, 1].

    Raises:
        ValueError: `units` below 1, an embedding that is not 2-D, or a half-precision `dtype`.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> cosines = sk.layers.NormalizedDense(3)(np.ones((2, 8), "float32"))
    >>> tuple(cosines.shape)
    (2, 3)

    Source: SphereFace, arXiv 1704.08063, section 3.2 (‖W_j‖ = 1, b = 0).
    """

    def __init__(
        self, units: int, kernel_initializer: Any = "glorot_uniform", **kwargs: Any
    ) -> None:
        super().__init__(units, **kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        self.check_embedding(embedding_shape)
        constraint, initializer = self.kernel_constraint, self.kernel_initializer
        self.kernel = self.add_weight(
            name="kernel",
            shape=(embedding_shape[-1], self.columns),
            initializer=initializer
            if constraint is None
            else lambda shape, dtype=None: constraint(initializer(shape, dtype)),
            constraint=constraint,
        )
        self.built = True

    @property
    def columns(self) -> int:
        """Columns of the kernel: one a class."""
        return self.units

    @property
    def kernel_constraint(self) -> Any:
        """What the optimiser does to the kernel after each step; None for nothing."""
        return None

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        embedding, _ = self.checked(embedding, labels, training and labels is not None)
        return self.products(embedding / norm_of(embedding, axis=1), self.kernel)

    def angles(self, embedding: Tensor) -> Tensor:
        """Returns the angles to all class weights, `(batch, units)`, in radians."""
        if not self.built:
            self.build(tuple(embedding.shape))
        rows = ops.cast(ops.convert_to_tensor(embedding), self.compute_dtype)
        rows = rows / norm_of(rows, axis=1)
        return margins.angle(NormalizedDense.products(self, rows, self.kernel))

    def products(self, rows: Tensor, kernel: Tensor) -> Tensor:
        """The rows' products with all class weights of length 1, `(batch, units)`."""
        return ops.matmul(rows, kernel) / norm_of(ops.convert_to_tensor(kernel), axis=0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
