"""SFNet: parameters, forms, initial values, configs."""

import keras
import numpy as np
import pytest

import spherekeras as sk


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(("depth", "units"), [(4, (0, 0, 0, 0)), (20, (1, 2, 4, 1))])
def test_parameters_are_those_of_the_convolutions(depth: int, units: tuple[int, ...]) -> None:
    filters, channels, inputs = 0, 0, 3
    for outputs, count in zip((64, 128, 256, 512), units, strict=True):
        filters += 9 * (inputs + 2 * count * outputs) * outputs
        channels += (1 + 2 * count) * outputs
        inputs = outputs
    dense = 512 * 7 * 7 * 512 + 512
    assert trainable(sk.backbones.SFNet(depth)) == filters + channels + dense
    normalised = sk.backbones.SFNet(depth, batch_norm=True)
    assert trainable(normalised) == filters + 2 * channels + dense + 2 * 512


def test_a_map_halves_as_in_sphereface() -> None:
    model = sk.backbones.SFNet(4, input_shape=(112, 96, 3))
    assert model.get_layer("stage1_relu").output.shape == (None, 56, 48, 64)
    assert model.get_layer("flatten").output.shape == (None, 7 * 6 * 512)


def test_where_the_last_relu_stands() -> None:
    """With every weight 0 but a negative bias, the sum is cut off, or the branch alone."""
    image = np.zeros((1, 112, 112, 3), "float32")
    for add_first, wanted in ((True, 0.5), (False, 1.0)):
        model = sk.backbones.SFNet(10, add_first=add_first)
        end = keras.Model(model.input, model.get_layer("stage3_conv_pad").input)
        end.set_weights([np.zeros(weight.shape, "float32") for weight in end.weights])
        model.get_layer("stage2_conv").bias.assign(np.full(128, 1.0))
        model.get_layer("stage2_unit1_conv2").bias.assign(np.full(128, -0.5))
        np.testing.assert_array_equal(
            end.predict_on_batch(image), np.full((1, 28, 28, 128), wanted)
        )


def test_starts_as_the_source_does() -> None:
    first = sk.backbones.SFNet(20).get_layer("stage3_unit1_conv1").get_weights()[0]
    assert first.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    deprecated = sk.backbones.SFNet(20, add_first=False)
    kernels = [deprecated.get_layer(f"stage3_unit{u}_conv1").get_weights()[0] for u in (1, 2)]
    assert kernels[0].std() == pytest.approx(0.01, rel=0.02)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01  # drawn anew


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="`SFNet` comes in depths 4, .* 64. Received: depth=12"):
        sk.backbones.SFNet(12)


def test_is_a_stock_model() -> None:
    model = sk.backbones.SFNet(4, embedding_dim=8, batch_norm=True)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 112, 112, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
