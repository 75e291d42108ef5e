"""The margin formulas, as pure functions on cosines.

Each takes the cosine of the angle θ between an embedding and a class weight and returns what
stands in its place. Nothing here holds state, and everything is `keras.ops`, so the formulas
run on the TensorFlow, JAX and torch backends and have their gradient from each.

Sources: [S] SphereFace, arXiv 1704.08063; [R] SphereFace Revived, arXiv 2109.05565;
[A] ArcFace, arXiv 1801.07698.
"""

import math
from typing import Any

from keras import ops

Tensor = Any


def angle(cosine: Tensor) -> Tensor:
    """Returns θ in radians, with a finite gradient at θ = 0 and θ = π.

    `arctan2(sin θ, cos θ)` in place of an arccos of a clipped cosine: exact at both ends to
    about 1e-7, where clipping at 1e-5 is off by 0.0045 rad.

    Args:
        cosine: tensor of any shape; values that rounding carried past ±1 are fine.
    """
    sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), 1e-14))
    return ops.arctan2(sine, cosine)


def monotone_cosine(theta: Tensor) -> Tensor:
    """Returns `(-1)^k cos θ - 2k`, `k = ⌊θ/π⌋`: the cosine, continued so that it falls for ever.

    On [0, π] this is cos θ. Past π, where the cosine would rise again and reward a wrong
    angle, each half turn is mirrored and shifted down; value and slope stay continuous
    ([S] eq. 6 is this function at mθ).

    Args:
        theta: tensor of angles ≥ 0 in radians, of any shape.
    """
    k = ops.stop_gradient(ops.floor(theta / math.pi))
    sign = 1.0 - 2.0 * ops.mod(k, 2.0)
    return sign * ops.cos(theta) - 2.0 * k


def stopped_cosine(theta: Tensor) -> Tensor:
    """Returns `cos(min(θ, π))`, for θ ≥ 0: past π it stays at -1 ([R] SphereFace-R v1)."""
    return ops.cos(ops.minimum(theta, math.pi))


def even_cosine(theta: Tensor) -> Tensor:
    """Returns `cos(min(max(θ, 0), π))`: an angle turned past 0 or π stays there (AdaFace)."""
    return ops.cos(ops.clip(theta, 0.0, math.pi))


def arc_linear(cosine: Tensor, margin: Tensor) -> Tensor:
    """Returns `cos(θ + m)`, and `cos θ - m·sin m` where θ + m passes π ([A], the authors' code).

    Args:
        cosine: tensor of any shape.
        margin: m in radians, a number or a tensor of the same shape.
    """
    theta = angle(cosine) + margin
    fall = ops.cast(margin * ops.sin(margin), theta.dtype)
    return ops.where(theta <= math.pi, ops.cos(theta), cosine - fall)


def psi(cosine: Tensor, margin: float) -> Tensor:
    """Returns ψ(θ) of A-Softmax: `(-1)^k cos(mθ) - 2k` on `θ ∈ [kπ/m, (k+1)π/m]` ([S] eq. 6).

    For a whole m, cos(mθ) is the Chebyshev polynomial T_m(cos θ), whose gradient is right
    everywhere, also at θ = 0 and π (±m²). Another m ≥ 1 goes through the angle
    ([R] section 3, SphereFace-R v0).

    Args:
        cosine: tensor of any shape.
        margin: m ≥ 1, never cut to a whole number.

    Returns:
        Tensor of the shape of `cosine`, falling from 1 at θ = 0 (for a whole m to 1 - 2m at π).

    Example:

    >>> from spherekeras import margins
    >>> [round(float(margins.psi(c, 4)), 3) for c in (1.0, 0.5, -1.0)]
    [1.0, -1.5, -7.0]
    """
    if margin != int(margin):
        return monotone_cosine(margin * angle(cosine))
    k, sign = _piece(cosine, int(margin))
    return sign * _chebyshev(cosine, int(margin)) - 2.0 * k


def psi_slope(cosine: Tensor, margin: int) -> Tensor:
    """Returns dψ/d(cos θ) for a whole m: `±m·U_{m-1}(cos θ)`, U the second kind's polynomial.

    Args:
        cosine: tensor of any shape.
        margin: a whole m ≥ 1.
    """
    before, now = ops.zeros_like(cosine), ops.ones_like(cosine)
    for _ in range(margin - 1):
        before, now = now, 2.0 * cosine * now - before
    return margin * _piece(cosine, margin)[1] * now


def combined(cosine: Tensor, m1: float = 1.0, m2: float = 0.0, m3: float = 0.0) -> Tensor:
    """Returns `cos(m1·θ + m2) - m3`, monotone past π ([A] eq. 4).

    m1 is the margin of SphereFace, m2 of ArcFace, m3 of CosFace.

    Args:
        cosine: tensor of any shape.
        m1: factor on the angle, ≥ 1 or a little below for the published (0.9, 0.4, 0.15).
        m2: angle added, in radians.
        m3: amount taken from the cosine.
    """
    if m2 == 0.0:
        return (cosine if m1 == 1.0 else psi(cosine, m1)) - m3
    return monotone_cosine(m1 * angle(cosine) + m2) - m3


def annealing_lambda(
    step: Tensor, base: float, gamma: float, power: float, minimum: float
) -> Tensor:
    """Returns `λ = max(λ_min, base·(1 + γ·step)^(-power))`, steps counted from 1.

    The released recipe (1000, 0.12, 1, 5) reaches its floor at step 1659; (1500, 0.1, 1, 5)
    at 2990. With λ = 5, a margin of 4 acts like one of about 1.4 to 1.5.
    """
    step = ops.cast(ops.maximum(step, 1), "float32")
    return ops.maximum(minimum, base * ops.power(1.0 + gamma * step, -power))


def _piece(cosine: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """k of ψ's piece that a cosine lies in, and (-1)^k."""
    k = ops.zeros_like(cosine)
    for joint in range(1, m):
        k = k + ops.cast(cosine <= math.cos(joint * math.pi / m), k.dtype)
    return k, 1.0 - 2.0 * ops.mod(k, 2.0)


def _chebyshev(x: Tensor, m: int) -> Tensor:
    """T_m(x) by its recurrence T_{n+1} = 2x·T_n - T_{n-1}."""
    before, now = ops.ones_like(x), x
    for _ in range(m - 1):
        before, now = now, 2.0 * x * now - before
    return now
