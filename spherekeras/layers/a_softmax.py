"""A-Softmax, the head of SphereFace."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from spherekeras import margins
from spherekeras.layers.margin_head import MarginHead

Tensor = Any


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
        annealing: `(base, γ, power, λ_min)`, by default the released recipe, which reaches its
            floor at step 1659; None for pure ψ from the first step (λ = 0).
        gradient: "exact" or "detached", see `MarginHead`.
        **kwargs: of `NormalizedDense`.

    Input shape: embedding `(batch, dim)`, not normalised: its length is the scale; labels
    `(batch,)`. Output shape: `(batch, units)`.

    Raises:
        ValueError: m below 1, an annealing that is not four fitting numbers, or bad labels (see
            `MarginHead`).

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> head = sk.layers.ASoftmax(10, margin=4)
    >>> tuple(head(np.ones((2, 8), "float32"), np.array([3, 7])).shape)
    (2, 10)

    Source: SphereFace, arXiv 1704.08063, equations 6 and 7; annealing: the authors' released
    training files.
    """

    def __init__(
        self,
        units: int,
        margin: float = 4,
        annealing: Sequence[float] | None = (1000.0, 0.12, 1.0, 5.0),
        gradient: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(units, gradient=gradient, **kwargs)
        if not margin >= 1:
            raise ValueError(f"`ASoftmax` expects margin >= 1. Received: margin={margin}.")
        if annealing is not None and (
            len(annealing) != 4 or min(annealing) < 0 or annealing[0] < annealing[3]
        ):
            raise ValueError(
                "`ASoftmax` expects annealing=(base, gamma, power, minimum) with four numbers at "
                f"least 0 and base >= minimum, or None. Received: annealing={annealing!r}. The "
                "released recipe is (1000.0, 0.12, 1.0, 5.0)."
            )
        self.margin = margin
        self.annealing = None if annealing is None else tuple(float(a) for a in annealing)

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

    def annealing_lambda(self) -> float:
        """Returns λ at the present step; 0 where there is no annealing."""
        if self.annealing is None:
            return 0.0
        return float(margins.annealing_lambda(int(self.step.numpy()), *self.annealing))

    def scale_of(self, norm: Tensor) -> Tensor:
        return norm

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        psi = margins.psi(cosine, self.margin)
        step = ops.convert_to_tensor(self.step)
        if training:
            step = step + 1
            self.step.assign(step)
        if self.annealing is None:
            return psi
        weight = ops.cast(margins.annealing_lambda(step, *self.annealing), cosine.dtype)
        return (weight * cosine + psi) / (1.0 + weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "annealing": self.annealing}
