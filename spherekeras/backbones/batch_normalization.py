"""Batch normalisation that TensorFlow computes in one operation."""

from typing import Any

import keras
from keras import layers, ops

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class BatchNormalization(layers.BatchNormalization):
    """Keras' batch normalisation, trained in one pass on the TensorFlow backend.

    Keras writes it as a dozen operations, each a pass over the map and back; TensorFlow has one
    fused operation, forward and backward. It serves a single device; over several replicas, on
    other backends and outside training the stock layer is taken. Values, weights and moving
    averages are the stock layer's.

    Args:
        synchronized: over several replicas of a tf.distribute strategy, statistics of all, as the
            backbones have it. Other backends, on which Keras refuses it, see the whole batch.
        kwargs: as for `keras.layers.BatchNormalization`.

    Input shape: `(batch, height, width, channels)` for the fused form, any other for the stock.
    Output shape: the same.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, (8, 4, 4, 3)).astype("float32")
    >>> y = BatchNormalization()(x, training=True)
    >>> round(float(np.std(y)), 2)
    1.0

    Source: Batch Normalization, arXiv 1502.03167, algorithm 1.
    """

    def __init__(self, *args: Any, synchronized: bool = False, **kwargs: Any) -> None:
        here = synchronized and keras.backend.backend() == "tensorflow"
        super().__init__(*args, synchronized=here, **kwargs)
        self._synchronized = bool(synchronized)  # wherever the file is read

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "synchronized": self._synchronized}

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        """Returns the normalised map."""
        usual = mask is None and self.scale and self.center
        usual = usual and not getattr(self, "renorm", False)  # Keras has it from 3.14 on
        usual = usual and len(inputs.shape) == 4 and self.axis in (-1, 3)
        narrow = keras.backend.standardize_dtype(inputs.dtype) != "float64"
        usual = usual and narrow and self.variable_dtype == "float32"  # all that it knows
        if training and self.trainable and usual and keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # the one operation that `keras.ops` does not have

            if tf.distribute.get_strategy().num_replicas_in_sync == 1:
                return self._fused(tf, inputs)
        return super().call(inputs, training=training, mask=mask)

    def _fused(self, tf: Any, inputs: Tensor) -> Tensor:
        output, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon, is_training=True
        )
        count = ops.cast(ops.size(inputs) // inputs.shape[-1], variance.dtype)
        variance = variance * (count - 1) / count  # TensorFlow's is the unbiased one
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1.0 - keep))
        return output


def default_batch_norm(name: str) -> BatchNormalization:
    """Returns the layer as the field's PyTorch networks have it: momentum 0.9, epsilon 1e-5."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True, name=name)
