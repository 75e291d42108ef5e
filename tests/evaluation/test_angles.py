"""Target and nearest-other angle against a loop over all classes."""

import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import class_angles


def test_angles_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    x, w, y = random.normal(size=(23, 4)), random.normal(size=(4, 6)), random.integers(0, 6, 23)
    got = class_angles(x, w, y, batch=5)
    for i, row in enumerate(x):
        angles = [
            math.acos(sum(row * w[:, j]) / math.sqrt(sum(row**2) * sum(w[:, j] ** 2)))
            for j in range(6)
        ]
        assert got.target[i] == pytest.approx(angles[y[i]], abs=1e-9)
        assert got.nearest_other[i] == pytest.approx(
            min(a for j, a in enumerate(angles) if j != y[i]), abs=1e-9
        )
    assert got.margin == pytest.approx(got.mean_nearest_other - got.mean_target)


@pytest.mark.parametrize(
    ("x", "w", "y", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), [0, 1], r"Received: shapes \(2, 3\), \(4, 5\)"),
        (np.ones((2, 3)), np.ones((3, 1)), [0, 0], "at least two classes"),
        (np.ones((2, 3)), np.ones((3, 5)), [0, 5], r"labels in \[0, 5\).*from 0 to 5"),
        (np.ones((2, 3)), np.ones((3, 5)), [0.0, 1.0], "dtype float64"),
        (np.zeros((1, 3)), np.ones((3, 5)), [0], "one of length 0"),
    ],
)
def test_what_does_not_fit_is_named(x: object, w: object, y: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_angles(x, w, y)  # type: ignore[arg-type]
