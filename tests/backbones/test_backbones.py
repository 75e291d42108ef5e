"""Backbones: parameter counts, padding, initial values, configs."""

import keras
import numpy as np
import pytest

import spherekeras as sk

COUNTS = {
    (4, 96): 12_562_496,
    (10, 96): 15_217_984,
    (20, 96): 22_666_944,
    (36, 96): 32_771_392,
    (62, 96): 47_891_648,  # two residual convolutions of 128 channels less than 64
    (64, 96): 48_186_816,
    (4, 112): 14_397_504,
    (20, 112): 24_501_952,
    (64, 112): 50_021_824,
}


@pytest.mark.parametrize(("depth", "width"), COUNTS)
def test_sphereface_parameters_are_the_released_ones(depth: int, width: int) -> None:
    model = sk.backbones.SphereFaceNet(depth, input_shape=(112, width, 3))
    assert model.count_params() == COUNTS[depth, width]
    assert model.output_shape == (None, 512)


def test_a_residual_bias_adds_its_channels() -> None:
    """As in clcarwin's port: 8 residual units of 64, twice 128, four times 256, 512 channels."""
    model = sk.backbones.SphereFaceNet(20, residual_bias=True)
    assert model.count_params() == COUNTS[20, 96] + 2 * (64 + 2 * 128 + 4 * 256 + 512)
    assert not model.get_layer("stage3_unit1_conv1").get_weights()[1].any()


def test_sphereface_pads_both_sides_of_a_strided_convolution() -> None:
    model = sk.backbones.SphereFaceNet(4)
    first = keras.Model(model.input, model.get_layer("stage1_conv").output)
    kernel, bias = model.get_layer("stage1_conv").get_weights()
    x = np.random.default_rng(0).normal(size=(1, 112, 96, 3)).astype("float32")
    padded = np.pad(x[0].astype("float64"), ((1, 1), (1, 1), (0, 0)))
    got = first.predict(x, verbose=0)[0]
    assert got.shape == (56, 48, 64)
    for i, j in ((0, 0), (55, 47), (20, 31)):
        window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        wanted = np.einsum("ijc,ijcd->d", window, kernel.astype("float64")) + bias
        np.testing.assert_allclose(got[i, j], wanted, atol=1e-5)


def test_sphereface_starts_as_the_release_does() -> None:
    model = sk.backbones.SphereFaceNet(20)
    strided = model.get_layer("stage3_conv").get_weights()[0]
    bound = np.float32(np.sqrt(3 / (3 * 3 * 128)))
    assert np.abs(strided).max() <= bound and strided.std() == pytest.approx(
        bound / 3**0.5, rel=0.02
    )
    residual = model.get_layer("stage3_unit1_conv1").get_weights()
    assert len(residual) == 1 and residual[0].std() == pytest.approx(0.01, rel=0.02)
    assert np.all(model.get_layer("stage2_prelu").get_weights()[0] == np.float32(0.25))


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="depths 4, 10, 20, 36, 62, 64. Received: depth=12"):
        sk.backbones.SphereFaceNet(12)


@pytest.mark.parametrize("width", [96, 112])
def test_mobile_facenet_is_small(width: int) -> None:
    model = sk.backbones.MobileFaceNet(input_shape=(112, width, 3))
    assert 0.9e6 < model.count_params() < 1.1e6
    assert model.output_shape == (None, 128)
    assert model.get_layer("global").input.shape[1:3] == (7, width // 16)


def test_the_twin_has_no_slopes_and_else_the_same_weights() -> None:
    usual, twin = (sk.backbones.MobileFaceNet(activation=name) for name in ("prelu", "relu"))
    slopes = sum(layer.count_params() for layer in usual.layers if "prelu" in layer.name)
    assert slopes > 0 and twin.count_params() == usual.count_params() - slopes
    weights = {layer.name: [w.shape for w in layer.weights] for layer in usual.layers}
    assert all(
        weights[layer.name] == [w.shape for w in layer.weights]
        for layer in twin.layers
        if layer.weights
    )
    x = np.random.default_rng(0).normal(size=(2, 112, 96, 3)).astype("float32")
    for layer in usual.layers:
        if "prelu" in layer.name:
            layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
        elif layer.weights:
            twin.get_layer(layer.name).set_weights(layer.get_weights())
    np.testing.assert_allclose(usual(x), twin(x), atol=1e-5)  # slope 0 is ReLU
    with pytest.raises(ValueError, match="knows the activations 'prelu' and 'relu'. Received: 'x'"):
        sk.backbones.MobileFaceNet(activation="x")


def test_mobile_facenet_refuses_an_uneven_crop() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16.*\(112, 100, 3\)"):
        sk.backbones.MobileFaceNet(input_shape=(112, 100, 3))


@pytest.mark.parametrize(
    "make", [lambda: sk.backbones.SphereFaceNet(4), sk.backbones.MobileFaceNet]
)
def test_backbones_are_stock_models(make: object) -> None:
    model = make()  # type: ignore[operator]
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 112, 96, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))
