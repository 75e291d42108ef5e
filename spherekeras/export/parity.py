"""Does the written file compute what Keras computes? Measured in the client that will run it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spherekeras.errors import ExportError
from spherekeras.export.serving import Served

TOLERANCES = {"float32": 0.999999, "float16": 0.9999, "dynamic": 0.999, "int8": 0.99}
"""The smallest cosine between the file's output and that of Keras."""

_MENDS = {
    "float32": "Look for a layer whose inference is random or keeps a state, or for weights that "
    "are not finite.",
    "float16": 'Export with quantization="float32".',
    "dynamic": 'Export with quantization="float16".',
    "int8": "Pass more representative crops (100 or more, varied and prepared as in use), or "
    'export with quantization="dynamic".',
}
_PICTURES = 8
_MOST_REPRESENTATIVE = 64

Client = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a file, as the client that runs it sees it."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from Keras.

    Attributes:
        path: the file.
        format: "TFLite" or "ONNX".
        quantization: "float32", "float16", "dynamic" or "int8".
        size_bytes: the size of the file.
        operators: how often each operator occurs, read from the file.
        inputs: the inputs of the file.
        outputs: the outputs of the file.
        max_difference: the largest absolute difference of an output value, in units of the
            length of the output (1 for an embedding).
        min_cosine: the smallest cosine between the file's output and that of Keras.
        tolerance: the bound on `min_cosine`.
        samples: how many inputs were compared.
        runs: what runs it how: for TFLite the pieces that XNNPACK, the fast code, takes.
    """

    path: str
    format: str
    quantization: str
    size_bytes: int
    operators: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_difference: float
    min_cosine: float
    tolerance: float
    samples: int
    runs: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def tensors(found: Sequence[Tensor]) -> str:
            return "; ".join(f"{t.name} ({', '.join(map(str, t.shape))}) {t.dtype}" for t in found)

        operators = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        return (
            f"{self.format} {self.quantization}: {self.path}, {self.size_bytes / 1e6:.2f} MB\n"
            f"  input      {tensors(self.inputs)}\n"
            f"  output     {tensors(self.outputs)}\n"
            f"  operators  {operators}\n"
            f"  parity     min cosine {self.min_cosine:.7f} (at least {self.tolerance}), "
            f"max difference {self.max_difference:.1e}, {self.samples} samples"
            + (f"\n  runs       {self.runs}" if self.runs else "")
        )


def pictures(shape: Sequence[int], low: float, high: float, count: int = _PICTURES) -> np.ndarray:
    """Returns seeded smooth random inputs, the same in every run.

    Smooth, since a convolution averages white noise away and would never leave a small part of
    its range.

    Args:
        shape: the shape of one input; `(height, width, channels)` is made smooth.
        low: the smallest value.
        high: the largest value.
        count: how many.

    Returns:
        `(count, *shape)` float32.

    >>> pictures((4, 4, 3), 0.0, 255.0).shape
    (8, 4, 4, 3)
    """
    rng = np.random.default_rng(20170426)
    if len(shape) != 3:
        return rng.uniform(low, high, (count, *shape)).astype("float32")
    height, width, channels = shape
    knots = rng.uniform(low, high, (count, 7, 7, channels))
    rows, columns = (
        np.stack([np.interp(np.linspace(0, 6, size), np.arange(7), unit) for unit in np.eye(7)])
        for size in (height, width)
    )
    return np.einsum("iy,nijc,jx->nyxc", rows, knots, columns, optimize=True).astype("float32")


def samples_of(subject: Served, representative: Any) -> np.ndarray:
    """Returns the inputs to calibrate and measure with: the representative ones, or pictures.

    Raises:
        ExportError: if `representative` is empty, of another shape or of several, or not in 0..255.
    """
    if representative is None:
        return pictures(subject.shape, subject.low, subject.high)
    try:
        given = np.asarray(representative)
    except ValueError:  # NumPy's, of crops of several sizes
        raise ExportError(
            f"representative expects crops of one shape, {subject.shape}. Received: several "
            "shapes. Pass crops prepared as for the model."
        ) from None
    if given.shape[1:] != subject.shape or len(given) == 0 or given.dtype.kind not in "uif":
        raise ExportError(
            f"representative expects an array of shape {('n', *subject.shape)}, at least one, of "
            f"numbers. Received: shape {given.shape}, {given.dtype}. "
            "Pass crops prepared as for the model."
        )
    values = given.astype("float32")
    pixels = subject.input_name == "image"
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all() or (pixels and not (low >= 0 and 1 < high <= 255)):
        wanted, mend = "finite values", "Leave out the inputs that are not."
        if pixels:
            wanted, mend = "RGB pixels in 0..255", "Pass the crops as 8-bit pixels, before scaling."
        raise ExportError(
            f"representative expects {wanted}. Received: values from {low:g} to {high:g}. {mend}"
        )
    return values


def compare(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Returns the largest difference relative to the output's length, and the smallest cosine.

    Args:
        expected: `(n, ...)`, each row one output.
        actual: the same shape.

    >>> compare(np.array([[3.0, 4.0]]), np.array([[3.0, 4.0]]))
    (0.0, 1.0)
    >>> compare(np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]]))
    (0.5, 1.0)
    """
    if expected.shape != actual.shape:
        raise ExportError(
            f"The file gives outputs of shape {actual.shape}, Keras {expected.shape}. "
            "Export a model whose output shape depends on the batch alone."
        )
    a = expected.reshape(len(expected), -1).astype("float64")
    b = actual.reshape(len(actual), -1).astype("float64")
    length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    both_zero = (length_a == 0) & (length_b == 0)
    cosine = np.where(both_zero, 1.0, (a * b).sum(1) / np.maximum(length_a * length_b, 1e-300))
    difference = np.abs(a - b).max(1) / np.maximum(length_a, 1e-12)
    return float(difference.max()), float(cosine.min())


def measure(
    subject: Served,
    client: Client,
    samples: np.ndarray,
    batches: Sequence[int] = (),
) -> tuple[float, float, int]:
    """Returns the largest difference, the smallest cosine and the number of samples.

    Args:
        subject: what was written.
        client: runs the written file on a batch.
        samples: `(n, ...)`; of many, 64 spread evenly are taken.
        batches: batch sizes to run the file at besides 1, which sees every sample.
    """
    if len(samples) > _MOST_REPRESENTATIVE:
        samples = samples[np.linspace(0, len(samples) - 1, _MOST_REPRESENTATIVE).astype(int)]
    chunks = [samples[start : start + _PICTURES] for start in range(0, len(samples), _PICTURES)]
    expected = np.concatenate([subject.reference(chunk) for chunk in chunks])
    actual = np.concatenate([client(sample[None]) for sample in samples])
    found = [compare(expected, actual)]
    for size in batches:
        chosen = np.arange(size) % len(samples)
        found.append(compare(expected[chosen], client(samples[chosen])))
    differences, cosines = np.array(found).T
    return float(differences.max()), float(cosines.min()), len(samples)


def check(report: ExportReport) -> ExportReport:
    """Returns the report if its file is in tolerance.

    Two unit vectors with cosine c differ by at most sqrt(2 - 2 c) in any value, so one bound
    serves both figures; the difference catches an output of the wrong length.

    Raises:
        ExportError: with the figures, the bounds and the mend.
    """
    most = math.sqrt(2 - 2 * report.tolerance)
    if report.min_cosine >= report.tolerance and report.max_difference <= most:
        return report
    raise ExportError(
        f"The {report.quantization} {report.format} file is out of tolerance and was not kept: "
        f"min cosine {report.min_cosine:.6f} (at least {report.tolerance}), max difference "
        f"{report.max_difference:.1e} (at most {most:.1e}) over {report.samples} samples. "
        f"{_MENDS[report.quantization]}"
    )
