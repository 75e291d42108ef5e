"""A-Softmax, the head of SphereFace."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.margin_head import MarginHead, is_list
from spherekeras.layers.products import norm_of, normalized_product

Tensor = Any
ANNEALINGS = {"released": (1000.0, 0.12, 1.0, 5.0), "clcarwin": (1500.0, 0.1, 1.0, 5.0)}


@keras.saving.register_keras_serializable("spherekeras")
class ASoftmax(MarginHead):
    """A-Softmax: target logit `‖x‖·(λ·cos θ + ψ(θ))/(1 + λ)`, others `‖x‖·cos θ`.

    ψ multiplies the angle to the embedding's own class by m before it is compared with the
    other classes, so the classes are pushed apart on the sphere. Trained from the start with
    the full margin, it seldom converges; λ therefore falls from nearly plain softmax to a
    floor: `λ = max(λ_min, base·(1 + γ·step)^(-power))`, steps counted from 1. λ's step is a
    weight of this layer: it advances in training only, and is saved and restored with it.

    Args:
        units: number of classes.
        margin: m ≥ 1. The paper advises 4 (and at least 3 for many classes). A real m works
            and is never cut to a whole number.
        annealing: `(base, γ, power, λ_min)`, or a name: "released", the authors' recipe and the
            default, (1000, 0.12, 1, 5), at its floor from step 1659; "clcarwin", the recipe of
            the widespread PyTorch code, (1500, 0.1, 1, 5), at its floor from step 2990. None for
            pure ψ from the first step (λ = 0).
        gradient: "exact" or "detached", see `MarginHead`; or "caffe", what the released layer
            computes for a whole m: for x, ψ's gradient `a·w + b·x` scaled to
            `(a·w + b·x)/√(a² + b²)`; for the class weights the plain linear one, their length
            held constant and set back to 1 after each step.
        **kwargs: of `MarginHead`.

    Input shape: embedding `(batch, dim)`, not normalised: its length is the scale; labels
    `(batch,)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: m below 1, an annealing that is neither a known name nor four fitting
            numbers, a "caffe" gradient of a real m, or bad labels (see `MarginHead`).

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.ASoftmax(10, margin=4)
    >>> tuple(head(np.ones((2, 8), "float32"), np.array([3, 7])).shape)
    (2, 10)

    Source: SphereFace, arXiv 1704.08063, equations 6 and 7; annealing: the authors' released
    training files.
    """

    gradients: tuple[str, ...] = ("exact", "detached", "caffe")

    def __init__(
        self,
        units: int,
        margin: float = 4,
        annealing: Sequence[float] | str | None = (1000.0, 0.12, 1.0, 5.0),
        gradient: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, gradient=gradient, **kwargs)
        if not margin >= 1:
            raise ValueError(
                f"`{type(self).__name__}` expects margin >= 1. Received: margin={margin}."
            )
        if gradient == "caffe" and margin != int(margin):
            raise ValueError(
                f"gradient='caffe' is that of a whole margin. Received: margin={margin}. Use "
                "gradient='exact'."
            )
        numbers = ANNEALINGS.get(annealing) if isinstance(annealing, str) else annealing
        if (annealing is not None and numbers is None) or (
            numbers is not None
            and (
                not is_list(numbers, 4)
                or not all(isinstance(n, (int, float)) and n >= 0 for n in numbers)
                or numbers[0] < numbers[3]
            )
        ):
            raise ValueError(
                f"`{type(self).__name__}` expects annealing=(base, gamma, power, minimum) with "
                "four numbers at least 0 and base >= minimum, or a name "
                f"({', '.join(map(repr, ANNEALINGS))}), or None. Received: "
                f"annealing={annealing!r}. The released recipe is (1000.0, 0.12, 1.0, 5.0)."
            )
        self.margin = margin
        self.annealing = None if numbers is None else tuple(float(a) for a in numbers)

    def annealing_lambda(self) -> float:
        """Returns λ at the present step; 0 where there is no annealing."""
        if self.annealing is None:
            return 0.0
        return float(margins.annealing_lambda(int(self.present_step()), *self.annealing))

    @property
    def kernel_constraint(self) -> Any:
        return keras.constraints.UnitNorm(axis=0) if self.gradient == "caffe" else None

    def scale_of(self, norm: Tensor) -> Tensor:
        return norm

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        return margins.psi(cosine, self.margin)

    def strength(self, step: Tensor) -> Tensor | None:
        ramp = super().strength(step)
        if self.annealing is None:
            return ramp
        annealed = 1.0 / (1.0 + margins.annealing_lambda(step, *self.annealing))
        return annealed if ramp is None else ramp * annealed

    def products_with_own(
        self, rows: Tensor, kernel: Tensor, labels: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = self.gradient != "caffe"
        return *normalized_product(rows, kernel, labels, norm_gradient=exact), scale

    def own_logit(
        self,
        cosine: Tensor,
        target: Tensor,
        scale: Tensor,
        embedding: Tensor,
        kernel: Tensor,
        labels: Tensor,
    ) -> Tensor:
        if self.gradient != "caffe":
            return super().own_logit(cosine, target, scale, embedding, kernel, labels)
        linear, fixed = cosine * scale, ops.stop_gradient(cosine)
        weight = ops.transpose(ops.take(ops.stop_gradient(kernel), labels, axis=1))
        weight = weight / norm_of(weight, axis=1)
        slope = margins.psi_slope(fixed, int(self.margin))
        along = (margins.psi(fixed, self.margin) - fixed * slope) / ops.stop_gradient(scale)
        turned = slope * weight + along * ops.stop_gradient(embedding)
        turned = turned / ops.sqrt(ops.square(slope) + ops.square(along))
        strength = self.strength(self.present_step())
        share = 1.0 if strength is None else ops.cast(strength, cosine.dtype)
        turn = ops.sum(embedding * share * (turned - weight), axis=1, keepdims=True)
        return ops.stop_gradient(target * scale - linear - turn) + linear + turn

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "annealing": self.annealing}
