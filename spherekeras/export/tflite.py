"""A preset as one TFLite file, for phones and small computers."""

import collections
import difflib
import os
import pathlib
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from spherekeras.errors import ExportError
from spherekeras.export import parity
from spherekeras.export.serving import (
    Served,
    converting,
    need,
    need_tensorflow_backend,
    quiet,
    served,
    writing,
)


def to_tflite(
    preset_or_model: Any,
    path: str | os.PathLike[str],
    quantization: str = "float32",
    representative: Any = None,
) -> parity.ExportReport:
    """Writes a TFLite file and measures it in LiteRT against Keras.

    The batch is fixed at 1, so that the XNNPACK delegate takes the whole graph. A preset or
    embedder becomes RGB pixels 0..255 `image (1, height, width, 3)` in, unit-length
    `embedding (1, dim)` out; its normalisation stays float in every file. A `keras.Model` is
    written as it is, from `input` to `output`.

    Args:
        preset_or_model: a preset name or folder, a `FaceEmbedder` or a `keras.Model` with one
            input and one output.
        path: the file to write, ending in `.tflite`.
        quantization: "float32"; "float16", half the size; "dynamic", int8 weights and a quarter
            of the size; or "int8", integers throughout between float inputs and outputs.
        representative: inputs `(n, ...)` as the file will see them: they set the ranges of
            "int8" (100 or more crops serve well), and the parity of any file is measured on
            them, or on seeded pictures where none are given.

    Returns:
        The report of the file.

    Raises:
        ExportError: if an argument is wrong, the model does not convert, or the file is out of
            tolerance; nothing is written then.

    Example:

        report = to_tflite("my-preset", "faces.tflite", quantization="float16")
        print(report)
    """
    if quantization not in parity.TOLERANCES:
        near = difflib.get_close_matches(str(quantization), parity.TOLERANCES, 1, cutoff=0.0)[0]
        raise ExportError(
            f"quantization expects one of {', '.join(map(repr, parity.TOLERANCES))}. "
            f"Received: {quantization!r}. Did you mean {near!r}?"
        )
    if quantization == "int8" and representative is None:
        raise ExportError(
            'quantization="int8" expects representative crops to set its ranges. Received: '
            "representative=None. Pass representative=crops, 100 or more of shape "
            "(n, height, width, 3)."
        )
    need("tensorflow", "ai_edge_litert")
    need_tensorflow_backend()
    with writing(path, ".tflite") as temporary:
        subject = served(preset_or_model)
        samples = parity.samples_of(subject, representative)
        with converting(subject.model.name, "The TFLite converter"):
            content = _convert(subject, quantization, samples)
        temporary.write_bytes(_named(content, subject))
        return _report(temporary, os.fspath(path), subject, quantization, samples)


def _convert(subject: Served, quantization: str, samples: np.ndarray) -> bytes:
    import keras
    import tensorflow as tf

    def calibration() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[None]]

    signature = tf.TensorSpec((1, *subject.shape), tf.float32, name=subject.input_name)
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(subject.model)
        archive.add_endpoint("serve", subject, input_signature=[signature])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantization != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantization != "int8":
            return converter.convert()
        # The one public way to leave an operator out of the quantisation.
        converter.representative_dataset = calibration
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=["L2_NORMALIZATION"])
        selective = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=calibration, debug_options=options
        )
        return selective.get_nondebug_quantized_model()


def _named(content: bytes, subject: Served) -> bytes:
    """The file with its outer tensors named as its signature names them.

    The converter calls them `serving_default_image:0` and `PartitionedCall:0`. A shorter name
    fits in the place of the old one: a FlatBuffers string is its length, the characters and a
    zero byte.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    wanted = {graph.Inputs(0): subject.input_name, graph.Outputs(0): subject.output_name}
    for index, name in wanted.items():
        old, new = graph.Tensors(index).Name(), name.encode()
        stored = struct.pack("<I", len(old)) + old + b"\0"
        if len(new) <= len(old) and content.count(stored) == 1:
            shorter = struct.pack("<I", len(new)) + new
            content = content.replace(stored, shorter.ljust(len(stored), b"\0"))
    return content


def _report(
    file: pathlib.Path, path: str, subject: Served, quantization: str, samples: np.ndarray
) -> parity.ExportReport:
    from ai_edge_litert.interpreter import Interpreter

    content = file.read_bytes()
    with quiet():
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()

    def client(batch: np.ndarray) -> np.ndarray:
        return run(**{subject.input_name: batch})[subject.output_name]

    difference, cosine, count = parity.measure(subject, client, samples)
    return parity.check(
        parity.ExportReport(
            path=path,
            format="TFLite",
            quantization=quantization,
            size_bytes=len(content),
            operators=_operators(content),
            inputs=tuple(map(_tensor, interpreter.get_input_details())),
            outputs=tuple(map(_tensor, interpreter.get_output_details())),
            max_difference=difference,
            min_cosine=cosine,
            tolerance=parity.TOLERANCES[quantization],
            samples=count,
        )
    )


def _tensor(details: dict[str, Any]) -> parity.Tensor:
    shape = tuple(int(size) for size in details["shape"])
    return parity.Tensor(details["name"], shape, np.dtype(details["dtype"]).name)


def _operators(content: bytes) -> dict[str, int]:
    """How often each operator occurs in the file, the most frequent first."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = schema.Model.GetRootAs(content, 0)
    found: collections.Counter[str] = collections.Counter()
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            found[code.CustomCode().decode() if names[builtin] == "CUSTOM" else names[builtin]] += 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
