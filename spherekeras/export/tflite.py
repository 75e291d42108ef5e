"""A preset as one TFLite file, for phones and small computers."""

import collections
import contextlib
import difflib
import io
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from spherekeras.errors import ExportError
from spherekeras.export import parity, tflite_metadata
from spherekeras.export.equalized import equalized
from spherekeras.export.integer_prelu import integer_prelu
from spherekeras.export.serving import (
    Served,
    converting,
    need,
    need_tensorflow_backend,
    served,
    serving_model,
    writing,
)
from spherekeras.litert import LiteRTModel, with_note

_FEWEST_WEIGHTS = 1024  # that gain by integers; the ones that sum the squares are fewer


def to_tflite(
    preset_or_model: Any,
    path: str | os.PathLike[str],
    quantization: str = "float32",
    representative: Any = None,
    batch: int | None = 1,
) -> parity.ExportReport:
    """Writes a TFLite file and measures it in LiteRT against Keras.

    A preset or embedder becomes RGB pixels 0..255 `image (batch, height, width, 3)` in, unit-length
    `embedding (batch, dim)` out; its normalisation stays float in every file. The file tells name,
    licence, crop, thresholds and the hash of the preset: to programs in TFLite's standard metadata
    (MediaPipe runs it as it is), to `FaceEmbedder.from_tflite` in full. A `keras.Model` is written
    as it is, from `input` to `output`.

    Args:
        preset_or_model: a preset name or folder, a `FaceEmbedder` or a `keras.Model` with one
            input and one output.
        path: the file to write, ending in `.tflite`.
        quantization: "float32"; "float16", half the size; "dynamic", int8 weights of convolutions
            and dense layers and a quarter to a third of the size; or "int8", integers throughout
            between float inputs and outputs.
        representative: inputs `(n, ...)` as the file will see them: they set the ranges of
            "int8" (100 or more crops serve well), and the parity of any file is measured on
            them, or where none are given on seeded pictures: of pixels 0..255 for a preset, and
            from -1 to 1 for a `keras.Model`, so that one which takes another range needs its own.
        batch: of the file. 1 by default; None for a batch that the program chooses as it runs,
            which costs XNNPACK, the fast code, a part of the graph.

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
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ExportError(
            f"batch expects a whole number from 1, or None for any. Received: {batch!r}."
        )
    need("tensorflow", *(["ai_edge_quantizer"] if quantization in ("dynamic", "int8") else []))
    need_tensorflow_backend()
    with writing(path, ".tflite") as temporary:
        subject = served(preset_or_model)
        samples = parity.samples_of(subject, representative)
        with converting(subject.model.name, "The TFLite converter"):
            content = _convert(subject, quantization, samples, batch)
        names = (subject.input_name, subject.output_name)
        note = subject.note_of(quantization)
        content = tflite_metadata.rewrite(content, *names, note)
        if note is not None:
            content = with_note(content, note)
        temporary.write_bytes(content)
        return _report(content, os.fspath(path), subject, quantization, samples)


def _convert(subject: Served, quantization: str, samples: np.ndarray, batch: int | None) -> bytes:
    import keras
    import tensorflow as tf

    model = subject.model
    if quantization == "int8":
        model = equalized(subject.backbone, subject.prepared(samples))
        if subject.config is not None:
            model = serving_model(model, subject.config, fused=True)
        model = integer_prelu(model)

    def serve(image: Any) -> dict[str, Any]:
        return {subject.output_name: keras.tree.flatten(model(image, training=False))[0]}

    signature = tf.TensorSpec((batch, *subject.shape), tf.float32, name=subject.input_name)
    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature=[signature])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantization == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    if quantization == "dynamic":
        return _dynamic(content)
    return _integers(content, samples) if quantization == "int8" else content


def _integers(content: bytes, samples: np.ndarray) -> bytes:
    """The file in integers, float at both ends and in `L2_NORMALIZATION`, which stays as it is.

    Every map has a range of its own. TensorFlow's own converter gives MAXIMUM and what it reads one
    in common, which costs a PReLU network of SphereFace's kind, whose maps reach much further down
    than up, most of its precision.

    A range holds all that the samples showed, or cuts off the twentieth of them that reach the
    furthest: finer steps for all others. Ranges from every second sample tell which serves better,
    by the smallest cosine over the rest.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe_manager

    interpreter = Interpreter(model_content=content)
    [[signature, tensors]] = interpreter.get_signature_list().items()
    [name] = tensors["inputs"]
    batch = interpreter.get_input_details()[0]["shape"][0]
    rows = [{name: np.broadcast_to(sample, (batch, *sample.shape))} for sample in samples]
    operators = qtyping.TFLOperationName
    integers = quantizer.Quantizer(content)
    integers.add_static_config(".*", operators.ALL_SUPPORTED, 8, 8)
    for operator in (operators.INPUT, operators.OUTPUT):
        integers.update_quantization_recipe(
            ".*", operator, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    recipe = recipe_manager.RecipeManager()
    recipe.load_quantization_recipe(integers.get_quantization_recipe())
    calibration = calibrator.Calibrator(content, qsv_update_func=_listed)
    with _quiet():
        calibration.calibrate({signature: rows}, recipe)
    extremes = calibration.get_model_qsvs()

    def quantized(share: float, every: int) -> bytes:
        ranges = {
            tensor: {
                "min": np.quantile(np.ravel(reach["min"])[::every], 1 - share, keepdims=True),
                "max": np.quantile(np.ravel(reach["max"])[::every], share, keepdims=True),
            }
            for tensor, reach in extremes.items()
        }
        with _quiet():
            done = integers.quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
        return bytes(done.quantized_model)

    others = samples[1::2]
    if not len(others):
        return quantized(1.0, every=1)
    expected = LiteRTModel(content)(others)

    def kept(share: float) -> float:
        return parity.compare(expected, LiteRTModel(quantized(share, every=2))(others))[1]

    return quantized(max((1.0, 0.95), key=kept), every=1)


def _listed(seen: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far a tensor reaches down and up, one entry a sample."""
    return {end: np.append(seen[end], new[end]) for end in ("min", "max")}


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """The quantiser's progress bars show themselves even where they are told not to."""
    return contextlib.redirect_stderr(io.StringIO())


def _dynamic(content: bytes) -> bytes:
    """The file with integers for the weights of convolutions and dense layers.

    Depthwise kernels stay float: few weights, and XNNPACK has no such operator with integers on
    floats, so what runs it is slow and coarse. TensorFlow's own converter quantises them too: a
    MobileFaceNet so had a smallest cosine of 0.9924 where this has 0.9995, and took 9.7 ms for 2.6.
    """
    from ai_edge_quantizer import qtyping, quantizer

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        min_weight_elements=_FEWEST_WEIGHTS,
    )
    integers = quantizer.Quantizer(content)
    for operator in ("CONV_2D", "FULLY_CONNECTED"):
        integers.update_quantization_recipe(".*", operator, config)
    with _quiet():
        quantized = integers.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(quantized.quantized_model)


def _report(
    content: bytes, path: str, subject: Served, quantization: str, samples: np.ndarray
) -> parity.ExportReport:
    client = LiteRTModel(content)
    batches = () if client.batch == 1 else (client.batch or 3,)
    difference, cosine, count = parity.measure(subject, client, samples, batches)
    pieces, left = client.delegation
    return parity.check(
        parity.ExportReport(
            path=path,
            format="TFLite",
            quantization=quantization,
            size_bytes=len(content),
            operators=_operators(content),
            inputs=(_tensor(client.input),),
            outputs=(_tensor(client.output),),
            max_difference=difference,
            min_cosine=cosine,
            tolerance=parity.TOLERANCES[quantization],
            samples=count,
            runs=f"XNNPACK, {pieces} piece{'' if pieces == 1 else 's'}"
            + (f"; left to slower code: {_counted(left)}" if left else ", the whole graph"),
        )
    )


def _tensor(details: dict[str, Any]) -> parity.Tensor:
    shape = tuple(int(size) if size > 0 else "batch" for size in details["shape_signature"])
    return parity.Tensor(details["name"], shape, np.dtype(details["dtype"]).name)


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in collections.Counter(names).items())


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
