"""The measure that decides whether a file is kept."""

import json
import types

import numpy as np
import pytest

from spherekeras.errors import ExportError
from spherekeras.export import parity


def test_compare_by_hand():
    expected = np.array([[3.0, 4.0], [0.0, 2.0]])
    actual = np.array([[3.0, 4.0], [1.2, 1.6]])
    difference, cosine = parity.compare(expected, actual)
    assert difference == pytest.approx(0.6)  # 1.2 / 2
    assert cosine == pytest.approx(0.8)


def test_compare_sees_what_the_cosine_does_not():
    assert parity.compare(np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]])) == (0.5, 1.0)


def test_compare_of_zeros():
    zero, one = np.zeros((1, 2)), np.array([[1.0, 0.0]])
    assert parity.compare(zero, zero) == (0.0, 1.0)
    difference, cosine = parity.compare(zero, one)
    assert difference > 1 and cosine == 0


def test_compare_refuses_to_broadcast():
    with pytest.raises(ExportError, match=r"outputs of shape \(1, 4\), Keras \(2, 4\)"):
        parity.compare(np.ones((2, 4)), np.ones((1, 4)))


def report(**changes):
    tensor = parity.Tensor("image", ("batch", 4, 4, 3), "float32")
    values = {
        "path": "faces.tflite",
        "format": "TFLite",
        "quantization": "int8",
        "size_bytes": 1_234_567,
        "operators": {"CONV_2D": 2, "PRELU": 1},
        "inputs": (tensor,),
        "outputs": (parity.Tensor("embedding", ("batch", 16), "float32"),),
        "max_difference": 0.01,
        "min_cosine": 0.995,
        "tolerance": 0.99,
        "samples": 8,
    }
    return parity.ExportReport(**values | changes)


def test_report_reads_as_one_block():
    assert str(report()) == (
        "TFLite int8: faces.tflite, 1.23 MB\n"
        "  input      image (batch, 4, 4, 3) float32\n"
        "  output     embedding (batch, 16) float32\n"
        "  operators  CONV_2D 2, PRELU 1\n"
        "  parity     min cosine 0.9950000 (at least 0.99), max difference 1.0e-02, 8 samples"
    )


def test_report_travels_as_json():
    read = json.loads(json.dumps(report().to_dict()))
    assert read["inputs"] == [{"name": "image", "shape": ["batch", 4, 4, 3], "dtype": "float32"}]
    assert read["operators"] == {"CONV_2D": 2, "PRELU": 1}
    assert read["min_cosine"] == 0.995


def test_check_keeps_what_is_in_tolerance():
    kept = report(min_cosine=0.99, max_difference=0.14)
    assert parity.check(kept) is kept


@pytest.mark.parametrize(
    "wrong", [{"min_cosine": 0.9899}, {"max_difference": 0.1415}, {"min_cosine": float("nan")}]
)
def test_check_refuses_what_is_not(wrong):
    with pytest.raises(ExportError, match="out of tolerance"):
        parity.check(report(**wrong))


def test_check_says_figure_bound_and_mend():
    with pytest.raises(ExportError) as error:
        parity.check(report(min_cosine=0.9))
    assert str(error.value) == (
        "The int8 TFLite file is out of tolerance and was not kept: min cosine 0.900000 (at least "
        "0.99), max difference 1.0e-02 (at most 1.4e-01) over 8 samples. Pass more representative "
        'crops (100 or more, varied and prepared as in use), or export with quantization="dynamic".'
    )


def test_pictures_are_seeded_smooth_and_wide():
    pictures = parity.pictures((32, 28, 3), 0.0, 255.0)
    assert pictures.shape == (8, 32, 28, 3) and pictures.dtype == np.float32
    np.testing.assert_array_equal(pictures, parity.pictures((32, 28, 3), 0.0, 255.0))
    assert 0 <= pictures.min() < 10 and 245 < pictures.max() <= 255
    # Bilinear between 7 knots: no step is longer than the range over the pixels between two.
    assert np.abs(np.diff(pictures, axis=1)).max() <= 255 * 6 / 31 + 1e-3
    assert np.abs(np.diff(pictures, axis=2)).max() <= 255 * 6 / 27 + 1e-3


def test_pictures_of_other_ranks():
    values = parity.pictures((5,), -1.0, 1.0)
    assert values.shape == (8, 5) and -1 <= values.min() < 0 < values.max() <= 1


def subject(**changes):
    values = {
        "shape": (4, 4, 3),
        "low": 0.0,
        "high": 255.0,
        "input_name": "image",
        "reference": lambda x: x.reshape(len(x), -1) + 1,
    }
    return types.SimpleNamespace(**values | changes)


def test_samples_take_pixels_of_any_type():
    given = np.full((2, 4, 4, 3), 200, "uint8")
    samples = parity.samples_of(subject(), given)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, given)
    assert parity.samples_of(subject(), None).shape == (8, 4, 4, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.ones((2, 5, 4, 3)),
            "representative expects an array of shape ('n', 4, 4, 3), at least one, of numbers. "
            "Received: shape (2, 5, 4, 3), float64. Pass crops prepared as for the model.",
        ),
        (
            np.zeros((0, 4, 4, 3), "uint8"),
            "representative expects an array of shape ('n', 4, 4, 3), at least one, of numbers. "
            "Received: shape (0, 4, 4, 3), uint8. Pass crops prepared as for the model.",
        ),
        (
            np.full((1, 4, 4, 3), 0.5),
            "representative expects RGB pixels in 0..255. Received: values from 0.5 to 0.5. "
            "Pass the crops as 8-bit pixels, before scaling.",
        ),
        (
            np.full((1, 4, 4, 3), 65_535, "uint16"),
            "representative expects RGB pixels in 0..255. Received: values from 65535 to 65535. "
            "Pass the crops as 8-bit pixels, before scaling.",
        ),
        (
            [np.ones((4, 4, 3)), np.ones((5, 4, 3))],
            "representative expects crops of one shape, (4, 4, 3). Received: several shapes. "
            "Pass crops prepared as for the model.",
        ),
        (
            np.full((1, 4, 4, 3), np.nan),
            "representative expects RGB pixels in 0..255. Received: values from nan to nan. "
            "Pass the crops as 8-bit pixels, before scaling.",
        ),
    ],
)
def test_samples_refused(given, message):
    with pytest.raises(ExportError) as error:
        parity.samples_of(subject(), given)
    assert str(error.value) == message


def test_a_plain_model_takes_any_finite_sample():
    with pytest.raises(ExportError) as error:
        parity.samples_of(subject(input_name="input"), np.full((1, 4, 4, 3), np.nan))
    assert str(error.value) == (
        "representative expects finite values. Received: values from nan to nan. Leave out the "
        "inputs that are not."
    )
    given = np.full((1, 4, 4, 3), -0.5)
    np.testing.assert_array_equal(parity.samples_of(subject(input_name="input"), given), given)


def test_measure_runs_every_sample_and_every_batch():
    samples = parity.pictures((4, 4, 3), 0.0, 255.0, count=10)
    seen = []

    def client(batch):
        seen.append(len(batch))
        return subject().reference(batch)

    difference, cosine, count = parity.measure(subject(), client, samples, batches=(3,))
    assert (difference, count) == (0, 10) and cosine == pytest.approx(1, abs=1e-12)
    assert seen == [1] * 10 + [3]


def test_measure_finds_what_is_wrong_in_one_batch_only():
    samples = parity.pictures((4, 4, 3), 0.0, 255.0, count=2)

    def client(batch):
        return subject().reference(batch) * (1 if len(batch) == 1 else np.nan)

    difference, cosine, _ = parity.measure(subject(), client, samples, batches=(3,))
    assert np.isnan(difference) and np.isnan(cosine)


def test_measure_spreads_over_many_samples():
    samples = np.arange(1000, dtype="float32").reshape(1000, 1)
    seen = []

    def client(batch):
        seen.append(float(batch[0, 0]))
        return subject().reference(batch)

    assert parity.measure(subject(), client, samples)[2] == 64
    assert seen[0] == 0 and seen[-1] == 999 and len(set(seen)) == 64
