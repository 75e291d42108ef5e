"""Plain softmax: a linear layer over the classes."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.head import Head

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class SoftmaxLinear(Head):
    """Softmax loss without any margin: `x·W + b`, the baseline of every comparison.

    Neither embeddings nor class weights are normalised. Labels are checked and otherwise not
    used, so that this head takes the place of any other, and trains without labels too.

    Args:
        units: number of classes.
        use_bias: whether b is added.
        kernel_initializer: of the class weights `(dim, units)`.
        **kwargs: of `Head`.

    Input shape: `(batch, dim)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: see `Head`; labels may be missing.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> tuple(sk.layers.SoftmaxLinear(3)(np.ones((2, 8), "float32"), np.array([0, 2])).shape)
    (2, 3)

    Source: SphereFace, arXiv 1704.08063, equation 1.
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        self.check_embedding(embedding_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(embedding_shape[-1], self.units),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.built = True

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        return self.logits(self.checked(embedding, labels, training=False)[0])

    def logits(self, embedding: Tensor) -> Tensor:
        """Returns `x·W + b`, `(batch, units)`."""
        logits = ops.matmul(embedding, self.kernel)
        return logits + self.bias if self.use_bias else logits

    def get_config(self) -> dict[str, Any]:
        own = {
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}
