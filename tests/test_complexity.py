"""Multiplications against published counts and a naive one."""

import keras
import pytest

import spherekeras as sk
from spherekeras.complexity import multiplications


@pytest.mark.parametrize(
    ("depth", "width", "billions"), [(4, 96, 0.164), (4, 112, 0.192), (10, 96, 0.759)]
)
def test_sphereface_costs_what_is_known_of_it(depth: int, width: int, billions: float) -> None:
    model = sk.backbones.SphereFaceNet(depth, input_shape=(112, width, 3))
    assert multiplications(model) / 1e9 == pytest.approx(billions, abs=6e-4)


def test_each_kind_of_layer_and_models_inside_models() -> None:
    inner = keras.Sequential([keras.Input((4, 4, 8)), keras.layers.DepthwiseConv2D(3)])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            inner,
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    assert multiplications(model) == 4 * 4 * 27 * 8 + 2 * 2 * 9 * 8 + 32 * 5


def test_a_separable_convolution_counts_both_its_kernels() -> None:
    layer = keras.layers.SeparableConv2D(8, 3, depth_multiplier=2)
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    assert multiplications(model) == 4 * 4 * (9 * 4 * 2 + 8 * 8)
