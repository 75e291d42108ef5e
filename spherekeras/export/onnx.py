"""A preset as one ONNX file, for servers, browsers, OpenCV and other languages."""

import collections
import dataclasses
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from spherekeras.data import alignment
from spherekeras.errors import ExportError
from spherekeras.export import parity
from spherekeras.export.onnx_graph import Graph, Value, add_network, normalised, settled
from spherekeras.export.serving import CHANNELS, Served, need, quiet, served, writing
from spherekeras.export.tflite_metadata import thresholds_text
from spherekeras.litert import NOTE

if TYPE_CHECKING:
    import onnx

_OPSETS = (13, 22)
_DEFAULT_OPSET = 15
_LAYOUTS = ("NHWC", "NCHW")
_PIXELS = {"float32": 1, "uint8": 2}  # ONNX's numbers of these types
_INNER, _WIDE = "sphereface_112x96", "arcface_112x112"


def to_onnx(
    preset_or_model: Any,
    path: str | os.PathLike[str],
    opset: int | None = None,
    *,
    layout: str = "NHWC",
    pixels: str = "float32",
    template: str | None = None,
    representative: Any = None,
) -> parity.ExportReport:
    """Writes an ONNX file and measures it in ONNX Runtime against Keras.

    The batch is free. A preset or embedder becomes RGB pixels 0..255 `image` in, unit-length
    `embedding (batch, dim)` out. A `keras.Model` is written as it is, from `input` to `output`.
    Inside, all is channels first, PReLU one operator, batch norm and padding part of the
    convolutions; the same weights give the same bytes. Keras may run on any backend.

    Args:
        preset_or_model: a preset name or folder, a `FaceEmbedder` or a `keras.Model` with one
            input and one output, built from `onnx_graph.LAYERS`.
        path: the file to write, ending in `.onnx`.
        opset: the version of the ONNX operators, 13 to 22; by default 15.
        layout: "NHWC", `(batch, height, width, 3)` in, with one transpose; or "NCHW",
            `(batch, 3, height, width)` in, with none.
        pixels: of a preset: "float32", or "uint8" as a decoder gives them.
        template: of a preset: the template of the crops that the file takes, by default the
            preset's own. "arcface_112x112" for a "sphereface_112x96" preset, which sees the middle
            of such a crop: `cv2.FaceRecognizerSF` aligns to that template (layout "NCHW").
        representative: inputs `(n, ...)`, channels last, as Keras takes them, to measure the file
            on; by default seeded pictures: of pixels 0..255 for a preset, and from -1 to 1 for a
            `keras.Model`, so that one which takes another range needs its own.

    Returns:
        The report of the file.

    Raises:
        ExportError: if an argument is wrong, the model holds a layer that is not known, or the
            file is out of tolerance; nothing is written then.

    Example:

        report = to_onnx("my-preset", "faces.onnx")
        print(report)
    """
    oldest, newest = _OPSETS
    opset = _DEFAULT_OPSET if opset is None else opset
    if isinstance(opset, bool) or not isinstance(opset, int) or not oldest <= opset <= newest:
        raise ExportError(
            f"opset expects an integer from {oldest} to {newest}. Received: {opset!r}. Leave it "
            f"out for {_DEFAULT_OPSET}."
        )
    for name, value, known in (("layout", layout, _LAYOUTS), ("pixels", pixels, tuple(_PIXELS))):
        if value not in known:
            raise ExportError(
                f"{name} expects {known[0]!r} or {known[1]!r}. Received: {value!r}. Leave it out "
                f"for {known[0]!r}."
            )
    need("onnx", "onnxruntime")
    with writing(path, ".onnx") as temporary:
        subject = served(preset_or_model)
        if subject.config is None and pixels != "float32":
            raise ExportError(
                f"pixels are a preset's; a keras.Model is written as it is. Received: {pixels!r}. "
                "Leave it out."
            )
        columns = _columns(subject, template)
        samples = parity.samples_of(subject, representative)
        content = _model(subject, layout, pixels, columns, opset)
        temporary.write_bytes(content.SerializeToString(deterministic=True))
        return _report(temporary, os.fspath(path), subject, layout, pixels, columns, samples)


def _model(
    subject: Served, layout: str, pixels: str, columns: slice | None, opset: int
) -> "onnx.ModelProto":
    import onnx
    from onnx import TensorProto, helper

    graph, shape = Graph(opset), _input_shape(subject, layout, columns)
    name = subject.input_name
    if pixels != "float32":
        name = graph.emit("Cast", name, to=TensorProto.FLOAT)
    if len(shape) == 3 and layout == "NHWC":
        name = graph.emit("Transpose", name, perm=[0, 3, 1, 2])
    if columns:
        bounds = [[columns.start], [columns.stop], [3]]
        parts = [
            graph.integers(b, f"crop/{n}")
            for b, n in zip(bounds, ("starts", "ends", "axes"), strict=True)
        ]
        name = graph.emit("Slice", name, *parts)
    if subject.config is None:
        output = settled(graph, add_network(graph, subject.backbone, Value(name, subject.shape)))
        if len(output.shape) == 3 and layout == "NHWC":
            output = dataclasses.replace(
                output, name=graph.emit("Transpose", output.name, perm=[0, 2, 3, 1])
            )
        size: tuple[int, ...] = output.shape
        if len(size) == 3 and layout == "NCHW":
            size = (size[2], *size[:2])
        last = output.name
    else:
        last = _embedding(graph, subject, name)
        size = tuple(subject.backbone.output_shape[1:])
        size = (size[0] * (2 if subject.config.mirror == "concat" else 1),)
    graph.rename(last, subject.output_name)
    given = helper.make_tensor_value_info(subject.input_name, _PIXELS[pixels], ["batch", *shape])
    wanted = helper.make_tensor_value_info(subject.output_name, TensorProto.FLOAT, ["batch", *size])
    constants = list(graph.constants.values())
    whole = helper.make_graph(graph.nodes, subject.backbone.name, [given], [wanted], constants)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        whole,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="spherekeras",
    )
    note = subject.note_of("float32")
    if note is not None:
        if columns:
            wide = alignment.TEMPLATES[_WIDE]
            note["config"] |= {"template": _WIDE, "height": wide.height, "width": wide.width}
        told = {"layout": layout, "pixels": pixels}
        text = json.dumps({**note, **told}, sort_keys=True, ensure_ascii=False)
        known = note["metadata"]
        helper.set_model_props(
            model,
            {
                NOTE: text,
                "name": known.get("name", ""),
                "license": known.get("weights_licence", ""),
                "thresholds": thresholds_text(known),
            },
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def _embedding(graph: Graph, subject: Served, name: str) -> str:
    """Pixels to unit-length embeddings: one 1x1 convolution orders and scales the channels."""
    config = subject.config
    kernel = np.eye(3)[CHANNELS[config.channel_order]][:, :, None, None] * config.scale
    name = graph.emit(
        "Conv",
        name,
        graph.constant(kernel.astype(np.float32), "preprocessing/kernel"),
        graph.constant(np.full(3, -config.offset * config.scale, np.float32), "preprocessing/bias"),
        kernel_shape=[1, 1],
    )
    crop = Value(name, subject.shape, shared=config.mirror != "none")  # its mirror image, too
    embedding = settled(graph, add_network(graph, subject.backbone, crop)).name
    if config.mirror != "none":
        last, low = np.iinfo(np.int64).max, -np.iinfo(np.int64).max
        parts = [
            graph.integers([value], f"mirror/{part}")
            for part, value in (("starts", last), ("ends", low), ("axes", 3), ("steps", -1))
        ]
        turned = Value(graph.emit("Slice", name, *parts), subject.shape)
        other = settled(graph, add_network(graph, subject.backbone, turned, prefix="mirror/")).name
        if config.mirror == "sum":
            embedding = graph.emit("Add", embedding, other)
        else:
            embedding = graph.emit("Concat", embedding, other, axis=1)
    return normalised(graph, embedding, "length")


def _input_shape(subject: Served, layout: str, columns: slice | None) -> list[int]:
    shape = list(subject.shape)
    if columns:
        shape[1] = alignment.TEMPLATES[_WIDE].width
    if len(shape) == 3 and layout == "NCHW":
        shape = [shape[2], *shape[:2]]
    return shape


def _columns(subject: Served, template: str | None) -> slice | None:
    """Where in the file's crop the preset's lies; None where they are the same."""
    if template is None or (subject.config and template == subject.config.template):
        return None
    inner = alignment.TEMPLATES[_INNER]
    own_size = (subject.config.height, subject.config.width) if subject.config else None
    if own_size == (inner.height, inner.width) and (subject.config.template, template) == (
        _INNER,
        _WIDE,
    ):
        return alignment.INNER_COLUMNS
    own = "no template"
    if subject.config and own_size:
        own = f"{subject.config.template!r} with crops of {own_size[0]}x{own_size[1]}"
    raise ExportError(
        f"template expects the preset's own, or {_WIDE!r} for a preset of {_INNER!r} with crops of "
        f"{inner.height}x{inner.width}. Received: {template!r} for {own}. Leave it out."
    )


def open_session(file: str | os.PathLike[str], threads: int = 0) -> Any:
    """Returns ONNX Runtime's session of a file, on the processor.

    Args:
        file: its path.
        threads: 0 for one a core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        os.fspath(file), options, providers=["CPUExecutionProvider"]
    )


def _report(
    file: pathlib.Path,
    path: str,
    subject: Served,
    layout: str,
    pixels: str,
    columns: slice | None,
    samples: np.ndarray,
) -> parity.ExportReport:
    import onnx

    with quiet():
        session = open_session(file)

    def client(batch: np.ndarray) -> np.ndarray:
        if columns:
            right = alignment.TEMPLATES[_WIDE].width - columns.stop
            batch = np.pad(batch, ((0, 0), (0, 0), (columns.start, right), (0, 0)))
        if batch.ndim == 4 and layout == "NCHW":
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        given = {subject.input_name: batch.astype(pixels)}
        output = session.run([subject.output_name], given)[0]
        return output.transpose(0, 2, 3, 1) if output.ndim == 4 and layout == "NCHW" else output

    if pixels != "float32":
        samples = np.rint(samples)
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
