"""PReLU that a processor trains in one pass over the map."""

from typing import Any

import keras
from keras import layers, ops

from spherekeras.one_pass import on_one_processor, one_pass

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class PReLU(layers.PReLU):
    """`max(x, 0) + alpha * min(x, 0)`, one slope a channel.

    The stock layer, in training on the TensorFlow backend compiled by XLA: TensorFlow runs each
    operation by itself, ten passes over the map forward and back, the compiled form two. It
    serves a single processor; over several replicas, on a GPU, run eagerly, on other backends and
    outside training the stock layer is taken. Value, weights and exported graph are the stock
    layer's, and so is the gradient but at exactly 0, where it is `alpha` and not 0.

    Args:
        kwargs: as for `keras.layers.PReLU`.

    Input shape: `(batch, ..., channels)`, with `shared_axes` all axes between.
    Output shape: the same.

    Example:

    >>> import numpy as np
    >>> layer = PReLU(keras.initializers.Constant(0.25), shared_axes=[1, 2])
    >>> float(layer(np.full((1, 2, 2, 3), -4.0))[0, 0, 0, 0])
    -1.0

    Source: Delving Deep into Rectifiers, arXiv 1502.01852, eqs. 1 and 5.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the rectified map."""
        shared = self.shared_axes == list(range(1, len(inputs.shape) - 1))
        if training and shared and on_one_processor():
            return _rectified(inputs, ops.cast(self.alpha, inputs.dtype))
        return super().call(inputs)


def _rectified(x: Tensor, alpha: Tensor) -> Tensor:
    @ops.custom_gradient
    def rectify(x: Tensor, alpha: Tensor) -> Any:
        return _forward(x, alpha), lambda upstream: _backward(x, alpha, upstream)

    return rectify(x, alpha)


@one_pass()
def _forward(x: Tensor, alpha: Tensor) -> Tensor:
    return ops.where(x > 0, x, alpha * x)


@one_pass()
def _backward(x: Tensor, alpha: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    # A sum over all rows is a product with ones: faster than `ops.sum`, and summed in float32
    # where the map is in bfloat16.
    rows = ops.reshape(upstream * ops.minimum(x, 0), (-1, alpha.shape[-1]))
    slope = ops.matmul(ops.ones((1, ops.shape(rows)[0]), rows.dtype), rows)
    return ops.where(x > 0, upstream, alpha * upstream), ops.reshape(slope, alpha.shape)
