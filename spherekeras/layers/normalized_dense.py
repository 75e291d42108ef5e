"""A dense layer on the sphere."""

from typing import Any

import keras
from keras import ops

from spherekeras import margins

Tensor = Any
_SMALL = 1e-4  # a shorter embedding has no direction worth a gradient


@keras.saving.register_keras_serializable("spherekeras")
class NormalizedDense(keras.layers.Layer):
    """Cosines between embeddings and class weights: `x·W / (‖x‖·‖W_j‖)`, no bias.

    What every head of the project starts from. It computes in float32 under any dtype policy,
    since a half-precision cosine has no digits left for the angle.

    Args:
        units: number of classes.
        kernel_initializer: of the class weights `(dim, units)`; only their direction counts.
        **kwargs: of `keras.layers.Layer`. `dtype` may be "float32" or "float64".

    Input shape: `(batch, dim)`. Output shape: `(batch, units)`, values in [-1, 1].

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
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if int(units) != units or units < 1:
            raise ValueError(
                f"`{type(self).__name__}` expects `units` to be a whole number of classes, at "
                f"least 1. Received: units={units}."
            )
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                f"`{type(self).__name__}` computes in float32 (or float64), whatever the global "
                f"policy. Received: dtype={self.dtype_policy.name}. Leave `dtype` out."
            )
        self.units = int(units)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, embedding_shape: tuple[int | None, ...]) -> None:
        if len(embedding_shape) != 2 or embedding_shape[-1] is None:
            raise ValueError(
                f"`{type(self).__name__}` expects embeddings of shape `(batch, dim)`. Received: "
                f"shape={tuple(embedding_shape)}. Flatten or pool the features first."
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(embedding_shape[-1], self.columns),
            initializer=self.kernel_initializer,
        )
        self.built = True

    @property
    def columns(self) -> int:
        """Columns of the kernel: one a class."""
        return self.units

    def call(self, embedding: Tensor) -> Tensor:
        return self._cosines(embedding)[0]

    def angles(self, embedding: Tensor) -> Tensor:
        """Returns the angles to all class weights, `(batch, units)`, in radians."""
        if not self.built:
            self.build(tuple(embedding.shape))
        embedding = ops.cast(ops.convert_to_tensor(embedding), self.compute_dtype)
        return margins.angle(self._cosines(embedding)[0])

    def compute_output_shape(self, embedding_shape: tuple[int | None, ...]) -> tuple[Any, ...]:
        return (embedding_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def _cosines(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines `(batch, units)` and the embeddings' norms `(batch, 1)`."""
        norm = norm_of(embedding, axis=1)
        cosines = ops.matmul(embedding / norm, self.kernel / norm_of(self.kernel, axis=0))
        return cosines, norm


def norm_of(x: Tensor, axis: int) -> Tensor:
    """The length of rows or columns, the axis kept."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=axis, keepdims=True), _SMALL**2))
