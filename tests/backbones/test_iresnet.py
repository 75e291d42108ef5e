"""IResNet: published parameter counts, maps, initial values, configs."""

import keras
import numpy as np
import pytest

import spherekeras as sk

# Of the PyTorch networks of InsightFace and OpenSphere: 24.0, 34.1, 43.6 and 65.2 million.
COUNTS = {18: 24_025_600, 34: 34_139_328, 50: 43_590_848, 100: 65_156_160}


@pytest.mark.parametrize("depth", COUNTS)
def test_parameters_are_the_published_ones(depth: int) -> None:
    model = sk.backbones.IResNet(depth)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == COUNTS[depth]
    assert model.output_shape == (None, 512)


def test_maps_halve_in_the_second_convolution_of_a_stage() -> None:
    model = sk.backbones.IResNet(18, input_shape=(112, 96, 3))
    sizes = {
        "stem_prelu": (112, 96, 64),
        "stage1_block1_conv1": (112, 96, 64),
        "stage1_block1_conv2": (56, 48, 64),
        "stage2_block1_add": (28, 24, 128),
        "head_bn": (7, 6, 512),
    }
    for name, size in sizes.items():
        assert model.get_layer(name).output.shape[1:] == size


def test_starts_as_the_source_does() -> None:
    model = sk.backbones.IResNet(18)
    kernels = [model.get_layer(f"stage3_block2_conv{half}").get_weights()[0] for half in (1, 2)]
    assert kernels[0].std() == pytest.approx(0.1, rel=0.02)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # drawn anew
    dense = model.get_layer("embedding").get_weights()[0]
    assert np.abs(dense).max() == pytest.approx((512 * 49) ** -0.5, rel=0.01)


def test_other_depths_are_refused() -> None:
    message = "`IResNet` comes in depths 18, 34, 50, 100. Received: depth=101"
    with pytest.raises(ValueError, match=message):
        sk.backbones.IResNet(101)


def test_is_a_stock_model() -> None:
    model = sk.backbones.IResNet(18, embedding_dim=8, input_shape=(32, 32, 3))
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
