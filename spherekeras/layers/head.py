"""What all heads share whatever their geometry: labels, and the loss that belongs to them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from spherekeras.losses.cross_entropy import CrossEntropy
from spherekeras.losses.labels import in_range

Tensor = Any

_NARROW = ("int8", "uint8", "int16", "uint16")


class Head(keras.layers.Layer):
    """Base of the last layer of a training model: embeddings and labels to logits.

    Call it as `head(embedding, labels)` for training and loss, and as `head(embedding)` for
    prediction; both give logits `(batch, units)`. Within a Sequential, where no labels reach a
    layer, use `spherekeras.Sequential`. `head.loss()` is the loss that its paper pairs it with.

    Heads compute in float32 under any dtype policy.

    Args:
        units: number of classes.
        **kwargs: of `keras.layers.Layer`. `dtype` may be "float32" or "float64".

    Labels: integers of any width in `[0, units)`, shape `(batch,)` or `(batch, 1)`. A label out
    of range raises where its value can be seen, and makes the loss NaN, never silently wrong,
    inside a compiled step.

    Raises:
        ValueError: `units` below 1, a half-precision `dtype`, embeddings that are not 2-D, and
            labels that are floats, one-hot, missing in training or out of range.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
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

    def loss(self) -> keras.losses.Loss:
        """Returns the loss to compile a model of this head with."""
        return CrossEntropy()

    def check_embedding(self, shape: tuple[int | None, ...]) -> None:
        """Raises ValueError for embeddings that are not `(batch, dim)`."""
        if len(shape) != 2 or shape[-1] is None:
            raise ValueError(
                f"`{type(self).__name__}` expects embeddings of shape `(batch, dim)`. Received: "
                f"shape={tuple(shape)}. Flatten or pool the features first."
            )

    def check_labels(self, labels: Tensor) -> Tensor:
        """Returns the labels as `(batch, 1)`; raises ValueError for what are no labels."""
        if not hasattr(labels, "dtype"):
            labels = ops.convert_to_tensor(labels)
        dtype, shape = keras.backend.standardize_dtype(labels.dtype), tuple(labels.shape)
        if "int" not in dtype or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
            raise ValueError(
                f"`{type(self).__name__}` expects integer labels of shape `(batch,)` in "
                f"`[0, units)`. Received: shape={shape}, dtype={dtype}, units={self.units}. For "
                "one-hot labels pass `ops.argmax(labels, axis=-1)`; for float labels pass "
                "`labels.astype('int32')`, and in a Functional model declare `keras.Input((), "
                "dtype='int32')`."
            )
        values = _values(labels)
        if (
            values is not None
            and values.size
            and not (values.min() >= 0 and values.max() < self.units)
        ):
            raise ValueError(
                f"`{type(self).__name__}` expects labels in `[0, {self.units})`. Received labels "
                f"from {values.min()} to {values.max()}. Build the head with "
                f"`units={int(values.max()) + 1}`, or renumber the labels from 0."
            )
        if dtype in _NARROW:  # TensorFlow would wrap `units` to fit the labels' type
            labels = ops.cast(labels, "int32")
        return ops.reshape(labels, (-1, 1))

    def checked(
        self, embedding: Tensor, labels: Tensor | None, training: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings and labels `(batch,)` int32; embeddings with a wrong label become NaN."""
        if labels is None:
            if training:
                raise ValueError(
                    f"`{type(self).__name__}` got no labels in training, so its margin would be "
                    "missing without a word. Call `head(embedding, labels)`, or build the model "
                    "as `spherekeras.Sequential([...])`, which passes the labels of "
                    "`fit(images, labels)` on to its head."
                )
            return embedding, None
        labels = self.check_labels(labels)
        if embedding.shape[0] not in (None, labels.shape[0]) and labels.shape[0] is not None:
            raise ValueError(
                f"`{type(self).__name__}` expects one label an embedding. Received: "
                f"{embedding.shape[0]} embeddings, {labels.shape[0]} labels."
            )
        labels, factor = in_range(labels, self.units)
        embedding = embedding * ops.cast(factor, embedding.dtype)
        return embedding, ops.cast(labels, "int32")[:, 0]

    def compute_output_shape(
        self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None
    ) -> tuple[Any, ...]:
        return (embedding_shape[0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def _values(labels: Tensor) -> np.ndarray | None:
    """The labels' values where they can be seen: not inside a compiled step."""
    device = getattr(getattr(labels, "device", None), "type", "cpu")
    if keras.backend.is_keras_tensor(labels) or device != "cpu":  # a look would stall a GPU
        return None
    try:
        return np.asarray(keras.ops.convert_to_numpy(labels))
    except Exception:  # each backend has its own error for a symbolic tensor
        return None
