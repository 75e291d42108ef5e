"""The formulas against the definition in plain float64 Python, and against published vectors."""

import math

import keras
import numpy as np
import pytest

from spherekeras import margins

DEGREES = [0, 30, 60, 90, 105, 135, 165, 180]
# θ against ψ for m = 2, 3, 4 and the real margins 1.5 and 1.7, worked out by hand.
VECTORS = {
    2: [1, 0.5, -0.5, -1, -1.133975, -2, -2.866025, -3],
    3: [1, 0, -1, -2, -2.707107, -3.292893, -4.707107, -5],
    4: [1, -0.5, -1.5, -3, -3.5, -5, -6.5, -7],
    1.5: [1, 0.707107, 0, -0.707107, -0.923880, -1.076120, -1.617317, -2],
    1.7: [1, 0.629320, -0.207912, -0.891007, -0.999657, -1.350552, -2.182236, None],
}


def naive_psi(theta: float, m: float) -> float:
    k = min(math.floor(m * theta / math.pi), math.ceil(m) - 1)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def numpy_of(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("m", VECTORS)
def test_psi_matches_the_published_vectors(m: float) -> None:
    for degrees, wanted in zip(DEGREES, VECTORS[m], strict=True):
        if wanted is not None:
            got = float(margins.psi(np.float64(math.cos(math.radians(degrees))), m))
            assert got == pytest.approx(wanted, abs=1e-6), degrees


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 1.1, 1.5, 2.5, 3.9])
def test_psi_is_the_definition_and_falls(m: float) -> None:
    theta = np.linspace(1e-4, math.pi - 1e-4, 2001)
    got = numpy_of(margins.psi(np.cos(theta), m))
    wanted = [naive_psi(t, m) for t in theta]
    np.testing.assert_allclose(got, wanted, atol=1e-9)
    assert np.all(np.diff(got) < 1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_psi_in_float32_is_right_to_1e_6_of_its_range(m: int) -> None:
    cosine = np.linspace(-1, 1, 4001, dtype=np.float32)
    wanted = [naive_psi(math.acos(c), m) for c in cosine.astype(np.float64)]
    assert np.abs(numpy_of(margins.psi(cosine, m)) - wanted).max() < 1e-6 * (2 * m)


def test_annealed_target_matches_the_published_vector() -> None:
    wanted = [1, 0.638355, 0.166667, -0.5, -0.799016, -1.422589, -1.888272, -2]
    cosine = np.cos(np.radians(DEGREES))
    np.testing.assert_allclose(
        (5 * cosine + numpy_of(margins.psi(cosine, 4))) / 6, wanted, atol=1e-6
    )


@pytest.mark.parametrize(
    "m", [(1, 0.5, 0), (1, 0, 0.35), (1.5, 0, 0), (1, 0.3, 0.2), (0.9, 0.4, 0.15)]
)
def test_combined_is_the_definition_within_pi_and_falls_past_it(m: tuple[float, ...]) -> None:
    m1, m2, m3 = m
    theta = np.linspace(1e-4, math.pi - 1e-4, 1001)
    got = numpy_of(margins.combined(np.cos(theta), m1, m2, m3))
    inside = m1 * theta + m2 <= math.pi
    np.testing.assert_allclose(got[inside], np.cos(m1 * theta[inside] + m2) - m3, atol=1e-9)
    assert np.all(np.diff(got) < 1e-12)


def test_angle_is_exact_at_both_ends_and_past_them() -> None:
    cosine = np.array([-1.0000001, -1, 0, 0.5, 1, 1.0000001], np.float32)
    wanted = [math.pi, math.pi, math.pi / 2, math.pi / 3, 0, 0]
    np.testing.assert_allclose(numpy_of(margins.angle(cosine)), wanted, atol=1e-6)


def test_lambda_starts_high_and_reaches_its_floor_at_the_documented_steps() -> None:
    def at(step: int, *annealing: float) -> float:
        return float(margins.annealing_lambda(step, *annealing))

    released, other = (1000.0, 0.12, 1.0, 5.0), (1500.0, 0.1, 1.0, 5.0)
    assert at(1, *released) == pytest.approx(1000 / 1.12)
    assert at(0, *released) == at(1, *released)
    assert at(1658, *released) > 5 and at(1659, *released) == 5
    assert at(2989, *other) > 5 and at(2990, *other) == 5
