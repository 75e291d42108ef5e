"""The course that all heads share: normalise, cosine, change the target, scale."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from spherekeras import margins
from spherekeras.layers.normalized_dense import NormalizedDense

Tensor = Any


class MarginHead(NormalizedDense):
    """Base of the heads: logits with the margin on each embedding's own class.

    A head states only what differs: `scale_of(norm)`, the factor on all cosines; `target(...)`,
    what replaces the cosine of the label's class; for a few heads `others(...)`, what replaces
    the remaining cosines, and `penalty(...)`, what is added to the loss. Most touch one logit
    a row.

    Call it as `head(embedding, labels)` for logits with the margin (training, loss) and as
    `head(embedding)` for margin-free logits (prediction). Both have shape `(batch, units)` and
    go into `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. Within a
    Sequential, where no labels reach a layer, use `spherekeras.Sequential`.

    The weight `target_angle` follows the mean angle between embeddings and their own class
    (radians, moving average of 0.99 over training steps): the one number that tells whether
    training gets anywhere.

    Args:
        units: number of classes.
        gradient: "exact" is the gradient of the formula; "detached" keeps the formula's value
            and takes the gradient of the plain cosine (characteristic gradient detachment,
            arXiv 2109.05565, section 4.3).
        **kwargs: of `NormalizedDense`.

    Labels: integers of any width in `[0, units)`, shape `(batch,)` or `(batch, 1)`. A label out
    of range raises where its value can be seen, and makes the loss NaN, never silently wrong,
    inside a compiled step.

    Raises:
        ValueError: labels that are floats, one-hot or out of range, a call in training without
            labels, or an unknown `gradient`.
    """

    def __init__(self, units: int, gradient: str = "exact", **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        if gradient not in ("exact", "detached"):
            raise ValueError(
                f"`{type(self).__name__}` knows gradient='exact' and gradient='detached'. "
                f"Received: gradient={gradient!r}."
            )
        self.gradient = gradient

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape)
        self.target_angle = self.add_weight(
            name="target_angle",
            shape=(),
            initializer=keras.initializers.Constant(math.pi / 2),
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def call(
        self, embedding: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        cosines, norm = self._cosines(embedding)
        scale = self.scale_of(norm)
        if labels is None:
            if training:
                raise ValueError(
                    f"`{type(self).__name__}` got no labels in training, so its margin would be "
                    "missing without a word. Call `head(embedding, labels)`, or build the model "
                    "as `spherekeras.Sequential([...])`, which passes the labels of "
                    "`fit(images, labels)` on to its head."
                )
            return cosines * scale
        labels = self.check_labels(labels)
        if embedding.shape[0] not in (None, labels.shape[0]) and labels.shape[0] is not None:
            raise ValueError(
                f"`{type(self).__name__}` expects one label an embedding. Received: "
                f"{embedding.shape[0]} embeddings, {labels.shape[0]} labels."
            )
        inside = ops.logical_and(labels >= 0, labels < self.units)
        scale = ops.cast(ops.where(inside, scale, math.nan), cosines.dtype)
        labels = ops.cast(ops.where(inside, labels, 0), "int32")
        cosine = ops.take_along_axis(cosines, labels, axis=1)
        target = self.target(cosine, norm, bool(training))
        others = self.others(cosines, cosine, bool(training))
        if self.gradient == "detached":
            target = cosine + ops.stop_gradient(target - cosine)
            if others is not cosines:
                others = cosines + ops.stop_gradient(others - cosines)
        if training:
            penalty = self.penalty(norm, labels)
            if penalty is not None:
                self.add_loss(penalty)
            mean = ops.mean(margins.angle(ops.stop_gradient(cosine)))
            self.target_angle.assign(0.99 * self.target_angle + 0.01 * mean)
        own = labels == ops.arange(self.units, dtype="int32")
        return ops.where(own, target, others) * scale

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
                "`labels.astype('int32')`."
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
        return ops.reshape(labels, (-1, 1))

    def scale_of(self, norm: Tensor) -> Tensor:
        """The factor on the cosines, from the embeddings' norms `(batch, 1)`."""
        raise NotImplementedError

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        """What replaces the cosines `(batch, 1)` of the labels' classes."""
        raise NotImplementedError

    def others(self, cosines: Tensor, cosine: Tensor, training: bool) -> Tensor:
        """What replaces all other cosines `(batch, units)`; `cosine` is the target's."""
        return cosines

    def penalty(self, norm: Tensor, labels: Tensor) -> Tensor | None:
        """What is added to the loss in training, a scalar; None for nothing."""
        return None

    def compute_output_shape(
        self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None
    ) -> tuple[Any, ...]:
        return super().compute_output_shape(embedding_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gradient": self.gradient}


class ScaledHead(MarginHead):
    """Base of the heads that give every embedding one length: all cosines times `scale`.

    Args:
        units: number of classes.
        scale: s, above 0.
        gradient: "exact" or "detached", see `MarginHead`.
        **kwargs: of `NormalizedDense`.

    Raises:
        ValueError: a scale that is not above 0.
    """

    def __init__(
        self, units: int, scale: float = 64.0, gradient: str = "exact", **kwargs: Any
    ) -> None:
        super().__init__(units, gradient=gradient, **kwargs)
        if not scale > 0:
            raise ValueError(f"`{type(self).__name__}` expects scale > 0. Received: scale={scale}.")
        self.scale = float(scale)

    def scale_of(self, norm: Tensor) -> Tensor:
        return self.scale

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


def _values(labels: Tensor) -> np.ndarray | None:
    """The labels' values where they can be seen: not inside a compiled step."""
    device = getattr(getattr(labels, "device", None), "type", "cpu")
    if keras.backend.is_keras_tensor(labels) or device != "cpu":  # a look would stall a GPU
        return None
    try:
        return np.asarray(keras.ops.convert_to_numpy(labels))
    except Exception:  # each backend has its own error for a symbolic tensor
        return None
