"""The course that all heads share: normalise, cosine, change the target, scale."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.normalized_dense import NormalizedDense
from spherekeras.layers.products import (
    norm_of,
    normalized_product,
    replace_own,
    with_rows,
    without_own,
)
from spherekeras.layers.sampling import HIDDEN, sample_classes, shards_of, weights_of
from spherekeras.losses.labels import own_columns

Tensor = Any


def is_list(value: Any, length: int) -> bool:
    """Whether an argument is a tuple, list or array of so many things."""
    return not isinstance(value, str) and hasattr(value, "__len__") and len(value) == length


class MarginHead(NormalizedDense):
    """Base of the heads: logits with the margin on each embedding's own class.

    A head states only what differs: `scale_of(norm)`, the factor on all cosines; `target(...)`,
    what replaces the cosine of the label's class; for a few heads `others(...)`, what replaces
    the remaining cosines, and `penalty(...)`, what is added to the loss. Most touch one logit
    a row.

    Call it as `head(embedding, labels)` for logits with the margin (training, loss) and as
    `head(embedding)` for margin-free logits (prediction). Both have shape `(batch, units)`;
    compile with `head.loss()`, which for most heads is
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. Within a Sequential, where no
    labels reach a layer, use `spherekeras.Sequential`.

    Two weights tell how training stands: `step`, the calls in training so far, and
    `target_angle`, the mean angle between embeddings and their own class (radians, moving
    average of 0.99 over training steps), the one number that tells whether it gets anywhere.

    Args:
        units: number of classes.
        gradient: "exact" is the gradient of the formula; "detached" keeps the formula's value
            and takes the gradient of the plain cosine (characteristic gradient detachment,
            arXiv 2109.05565, section 4.3).
        ramp: `(begin, end)`, training steps: no margin up to step `begin` (a warm start from
            normalised softmax), then `cos θ + r·(target - cos θ)` with r growing evenly to 1 at
            step `end`. None for the whole margin from the start.
        sampling: share of the classes that a training step looks at, in (0, 1]: the batch's own
            and a fresh random sample of all, in runs of up to 16 neighbours (Partial FC, arXiv
            2203.15565). The logits of a training step are then `(batch, shards, columns, 1)`,
            which `head.loss()` reads and a stock loss refuses; `shards` is 1, or the number of
            JAX devices that the class weights are cut over. Outside training nothing changes.
            None for all classes.
        calls_per_step: calls in training that make one step of `ramp` and annealing. A
            `spherekeras.Sequential` takes its optimizer's `gradient_accumulation_steps`; a
            Functional model that accumulates is given it. None for 1 until it is known.
        **kwargs: of `NormalizedDense`.

    Labels: see `Head`.

    Raises:
        ValueError: an unknown `gradient`, a ramp that does not rise, a sampling outside (0, 1],
            calls below 1, and what `Head` raises.
    """

    gradients: tuple[str, ...] = ("exact", "detached")

    def __init__(
        self,
        units: int,
        gradient: str = "exact",
        ramp: Sequence[int] | None = None,
        sampling: float | None = None,
        calls_per_step: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        calls = 1 if calls_per_step is None else calls_per_step
        if not hasattr(calls, "__index__") or calls < 1:
            raise ValueError(
                f"`{type(self).__name__}` expects calls_per_step, a whole number from 1. Received: "
                f"calls_per_step={calls_per_step!r}."
            )
        self.calls_per_step = int(calls)
        self._knows_calls = calls_per_step is not None
        if gradient not in self.gradients:
            known = " and ".join(f"gradient={name!r}" for name in self.gradients)
            raise ValueError(
                f"`{type(self).__name__}` knows {known}. Received: gradient={gradient!r}."
            )
        if ramp is not None and (not is_list(ramp, 2) or not 0 <= ramp[0] <= ramp[1]):
            raise ValueError(
                f"`{type(self).__name__}` expects ramp=(begin, end), training steps with "
                f"0 <= begin <= end, or None. Received: ramp={ramp!r}."
            )
        if sampling is not None and not 0 < sampling <= 1:
            raise ValueError(
                f"`{type(self).__name__}` expects sampling in (0, 1], a share of the classes, or "
                f"None for all. Received: sampling={sampling!r}."
            )
        self.gradient = gradient
        self.ramp = None if ramp is None else (int(ramp[0]), int(ramp[1]))
        self.sampling = None if sampling is None else float(sampling)
        if self.sampling is not None:
            self.draws = keras.random.SeedGenerator()

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: Any = None) -> None:
        super().build(embedding_shape, labels_shape)
        self.step = self.add_weight(
            name="step",
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )
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
        embedding, labels = self.checked(embedding, labels, training)
        norm, kernel = norm_of(embedding, axis=1), ops.convert_to_tensor(self.kernel)
        scale = self.scale_of(norm)
        rows = embedding * (scale / norm)
        if labels is None:
            return self.plain(self.products(rows, kernel), scale)
        classes, hidden = labels, None
        if training and self.sampling is not None:
            count = max(1, round(self.sampling * self.units))
            shards = shards_of(self.kernel)
            drawn, hidden = sample_classes(labels, self.units, count, self.draws, shards)
            kernel = weights_of(kernel, labels, drawn, self.units)
            classes = own_columns(*ops.shape(hidden))
        logits, own, own_scale = self.products_with_own(rows, kernel, classes, scale)
        cosine = own / own_scale
        if training:
            self.step.assign(self.step + 1)
        strength = self.strength(self.present_step())
        target = self._blended(cosine, self.target(cosine, norm, bool(training)), strength)
        if not self.keeps_others:
            cosines = logits / scale
            others = self.others(cosines, cosine, bool(training))
            others = self.detached(cosines, self._blended(cosines, others, strength))
            logits = without_own(others * scale, classes)
        if training:
            penalty = self.penalty(norm, labels)
            if penalty is not None:
                self.add_loss(penalty)
            mean = ops.mean(margins.angle(ops.stop_gradient(cosine)))
            before = ops.convert_to_tensor(self.target_angle)
            self.target_angle.assign(with_rows(norm, 0.99 * before + 0.01 * mean, before))
        own = self.own_logit(cosine, target, own_scale, embedding, kernel, classes)
        logits = replace_own(logits, own, classes)
        if hidden is None:
            return logits
        logits = ops.reshape(logits, ops.shape(hidden))
        return ops.where(hidden, HIDDEN, logits)[..., None]

    def scale_of(self, norm: Tensor) -> Tensor:
        """The factor on the cosines, from the embeddings' norms `(batch, 1)`."""
        raise NotImplementedError

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        """What replaces the cosines `(batch, 1)` of the labels' classes."""
        raise NotImplementedError

    @property
    def keeps_others(self) -> bool:
        """Whether the other classes' cosines stay what they are; else `others` is asked."""
        return True

    def others(self, cosines: Tensor, cosine: Tensor, training: bool) -> Tensor:
        """What replaces all other cosines `(batch, units)`; `cosine` is the target's."""
        raise NotImplementedError

    def penalty(self, norm: Tensor, labels: Tensor) -> Tensor | None:
        """What is added to the loss in training, a scalar; None for nothing."""
        return None

    def plain(self, logits: Tensor, scale: Tensor) -> Tensor:
        """The margin-free logits of prediction, from the scaled cosines."""
        return logits

    def present_step(self) -> Tensor:
        """The step that the last call in training belongs to, from 1."""
        return -(-ops.convert_to_tensor(self.step) // self.calls_per_step)

    def count_calls(self, calls: int) -> None:
        """Sets `calls_per_step`; where another number was known, as many steps stay counted."""
        if self._knows_calls and self.built and calls != self.calls_per_step:
            self.step.assign(ops.convert_to_tensor(self.step) // self.calls_per_step * calls)
        self.calls_per_step, self._knows_calls = calls, True

    def strength(self, step: Tensor) -> Tensor | None:
        """How much of the margin acts at a step, 0 to 1; None for all of it."""
        if self.ramp is None:
            return None
        begin, end = self.ramp
        return ops.clip((ops.cast(step, "float32") - begin) / max(end - begin, 1), 0.0, 1.0)

    def products_with_own(
        self, rows: Tensor, kernel: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled cosines of all classes, those of the labels `(batch, 1)`, and their scale.

        The gradient by the labels' cosines goes through the second alone, see `without_own`.
        """
        return *normalized_product(rows, kernel, labels), scale

    def own_logit(
        self,
        cosine: Tensor,
        target: Tensor,
        scale: Tensor,
        embedding: Tensor,
        kernel: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """The logit of the labels' classes, with the gradient that `gradient` asks for."""
        return self.detached(cosine, target) * scale

    def detached(self, cosine: Tensor, changed: Tensor) -> Tensor:
        """What replaces cosines, with the plain cosine's gradient where `gradient` asks for it."""
        if self.gradient != "detached":
            return changed
        return cosine + ops.stop_gradient(changed - cosine)

    def get_config(self) -> dict[str, Any]:
        calls = self.calls_per_step  # which may have been set by hand
        own = {
            "gradient": self.gradient,
            "ramp": self.ramp,
            "sampling": self.sampling,
            "calls_per_step": calls if self._knows_calls or calls > 1 else None,
        }
        return {**super().get_config(), **own}

    def _blended(self, cosine: Tensor, changed: Tensor, strength: Tensor | None) -> Tensor:
        if strength is None:
            return changed
        return cosine + ops.cast(strength, cosine.dtype) * (changed - cosine)


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
