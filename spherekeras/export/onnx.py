"""A preset as one ONNX file, for servers and other languages."""

import collections
import gc
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from spherekeras.errors import ExportError
from spherekeras.export import parity
from spherekeras.export.serving import Served, converting, need, quiet, served, writing

if TYPE_CHECKING:
    import onnx

_OPSETS = (13, 18)
"""The oldest opset that is tried here, and the newest that tf2onnx writes."""
_DEFAULT_OPSET = 15


def to_onnx(
    preset_or_model: Any, path: str | os.PathLike[str], opset: int | None = None
) -> parity.ExportReport:
    """Writes an ONNX file and measures it in ONNX Runtime against Keras.

    The batch is free. A preset or embedder becomes RGB pixels 0..255
    `image (batch, height, width, 3)` in, unit-length `embedding (batch, dim)` out. A
    `keras.Model` is written as it is, from `input` to `output`.

    Args:
        preset_or_model: a preset name or folder, a `FaceEmbedder` or a `keras.Model` with one
            input and one output.
        path: the file to write, ending in `.onnx`.
        opset: the version of the ONNX operators, 13 to 18; 15 where None is given.

    Returns:
        The report of the file.

    Raises:
        ExportError: if an argument is wrong, the model does not convert, or the file is out of
            tolerance; nothing is written then.

    Example:

        report = to_onnx("my-preset", "faces.onnx")
        print(report)
    """
    oldest, newest = _OPSETS
    if opset is None:
        opset = _DEFAULT_OPSET
    if isinstance(opset, bool) or not isinstance(opset, int) or not oldest <= opset <= newest:
        raise ExportError(
            f"opset expects an integer from {oldest} to {newest}, the newest that tf2onnx writes. "
            f"Received: {opset!r}. Leave it out for {_DEFAULT_OPSET}."
        )
    need("tensorflow", "tf2onnx", "onnx", "onnxruntime")
    with writing(path, ".onnx") as temporary:
        subject = served(preset_or_model)
        with converting(subject.model.name, "tf2onnx"):
            content = _convert(subject, opset).SerializeToString(deterministic=True)
            gc.collect()  # tf2onnx leaves cycles that hold dozens of copies of the weights
        temporary.write_bytes(content)
        return _report(temporary, os.fspath(path), subject)


def _convert(subject: Served, opset: int) -> "onnx.ModelProto":
    import onnx
    import tensorflow as tf
    import tf2onnx

    signature = tf.TensorSpec((None, *subject.shape), tf.float32, name=subject.input_name)
    model, _ = tf2onnx.convert.from_function(
        tf.function(subject), input_signature=[signature], opset=opset
    )
    model.graph.name, model.graph.doc_string = subject.model.name, ""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _settle(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _settle(graph: "onnx.GraphProto") -> None:
    """Orders and names a graph by its structure alone.

    The converter's own order and names hang on hash seeds and on counters of the process; this
    way the same weights give the same bytes. A node is called by its operator and its place.
    """
    nodes = _depth_first(graph)
    if any(attribute.HasField("g") for node in nodes for attribute in node.attribute):
        return  # Control flow: inner graphs refer to outer names.
    constants = {constant.name: constant for constant in graph.initializer}
    used: list[onnx.TensorProto] = []
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    for place, node in enumerate(nodes):
        node.name = f"{node.op_type}_{place}"
        for position, name in enumerate(node.input):
            if name in constants and name not in names:
                names[name] = f"{node.name}_input_{position}"
                constants[name].name = names[name]
                used.append(constants[name])
        for position, name in enumerate(node.output):
            names.setdefault(name, f"{node.name}_output_{position}")
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for field, content in ((graph.node, nodes), (graph.initializer, used), (graph.value_info, [])):
        del field[:]
        field.extend(content)


def _depth_first(graph: "onnx.GraphProto") -> list["onnx.NodeProto"]:
    """The nodes that the outputs need, each after those it needs itself."""
    makers = {output: node for node in graph.node for output in node.output}
    placed: dict[str, onnx.NodeProto] = {}
    pending = [value.name for value in graph.output]
    while pending:
        node = makers[pending[-1]]
        needed = (name for name in node.input if name in makers)
        waiting = next((name for name in needed if makers[name].output[0] not in placed), None)
        if waiting is not None:
            pending.append(waiting)
        else:
            placed.setdefault(node.output[0], node)
            pending.pop()
    return list(placed.values())


def _report(file: pathlib.Path, path: str, subject: Served) -> parity.ExportReport:
    import onnx
    import onnxruntime

    with quiet():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            os.fspath(file), options, providers=["CPUExecutionProvider"]
        )

    def client(batch: np.ndarray) -> np.ndarray:
        return session.run([subject.output_name], {subject.input_name: batch})[0]

    samples = parity.samples_of(subject, None)
    difference, cosine, count = parity.measure(subject, client, samples, batches=(3,))
    operators = collections.Counter(node.op_type for node in onnx.load(file).graph.node)
    return parity.check(
        parity.ExportReport(
            path=path,
            format="ONNX",
            quantization="float32",
            size_bytes=file.stat().st_size,
            operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
            inputs=tuple(map(_tensor, session.get_inputs())),
            outputs=tuple(map(_tensor, session.get_outputs())),
            max_difference=difference,
            min_cosine=cosine,
            tolerance=parity.TOLERANCES["float32"],
            samples=count,
        )
    )


def _tensor(value: Any) -> parity.Tensor:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return parity.Tensor(value.name, tuple(value.shape), "float32" if kind == "float" else kind)
