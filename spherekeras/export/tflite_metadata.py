"""What a TFLite file says of itself: names of its tensors, and TFLite's standard metadata.

The metadata is a FlatBuffer inside the file, by which programs know what to feed (MediaPipe refuses
a file without it): https://ai.google.dev/edge/litert/conversion/tensorflow/metadata.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import flatbuffers

_ENTRY = b"TFLITE_METADATA"
# Members of unions and enumerations of metadata_schema.fbs, version 1.0.0.
_FEATURE, _IMAGE, _NORMALIZATION, _RGB = 1, 2, 1, 1


def rewrite(
    content: bytes, input_name: str, output_name: str, note: dict[str, Any] | None
) -> bytes:
    """Returns a TFLite file with its outer tensors named and, for a preset, its metadata.

    The converter calls the tensors `serving_default_image:0` and `PartitionedCall:0`.

    Args:
        content: a TFLite file with one input and one output.
        input_name, output_name: as the file's signature calls them.
        note: of a preset, as `presets.note_of` has it; None for a plain model.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Builder(flatbuffers.Builder):
        """Keeps weights where their readers may map them, at multiples of 16 bytes."""

        head: int

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            data = x.tobytes()
            self.StartVector(1, len(data), 16)
            self.head = self.head - len(data)
            self.Bytes[self.head : self.head + len(data)] = data
            self.vectorNumElems = x.size
            return int(self.EndVector())

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = input_name.encode()
    graph.tensors[graph.outputs[0]].name = output_name.encode()
    for buffer in model.buffers:
        if buffer.offset:  # a quantiser's form for files of any size, which few readers know
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    if note is not None:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        metadata = _metadata(flatbuffers.Builder(1024), input_name, output_name, note)
        buffer.data = np.frombuffer(metadata, np.uint8)
        entry.name, entry.buffer = _ENTRY, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or []), entry]
    builder = Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _metadata(
    builder: "flatbuffers.Builder", input_name: str, output_name: str, note: dict[str, Any]
) -> bytes:
    """The `ModelMetadata` of a preset's file.

    The pixels are scaled inside the graph, so mean 0 and deviation 1 are stated.
    """
    config, known = note["config"], note["metadata"]
    image = _table(builder, {0: ("int8", _RGB)})
    normalization = _table(builder, {0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
    unit = _table(builder, {0: ("uint8", _NORMALIZATION), 1: normalization})
    pixels = _table(
        builder,
        {
            0: builder.CreateString(input_name),
            1: builder.CreateString(
                f"One face, aligned to the template {config['template']}, {config['height']} high, "
                f"{config['width']} wide, RGB, 0 to 255."
            ),
            3: _table(builder, {0: ("uint8", _IMAGE), 1: image}),
            4: _vector(builder, [unit]),
            5: _table(builder, {0: _floats(builder, [255.0]), 1: _floats(builder, [0.0])}),
        },
    )
    feature = _table(builder, {})
    embedding = _table(
        builder,
        {
            0: builder.CreateString(output_name),
            1: builder.CreateString(f"Embedding of unit length. {thresholds_text(known)}".strip()),
            3: _table(builder, {0: ("uint8", _FEATURE), 1: feature}),
        },
    )
    graph = _table(builder, {2: _vector(builder, [pixels]), 3: _vector(builder, [embedding])})
    texts = {
        0: known.get("name", "a preset of spherekeras"),
        1: known.get("description", ""),
        2: note["preset"].get("model.weights.h5", ""),
        5: " ".join(str(known[key]) for key in ("weights_licence", "terms") if key in known),
        7: "1.0.0",
    }
    fields = {slot: builder.CreateString(str(text or "")) for slot, text in texts.items()}
    fields[3] = _vector(builder, [graph])
    builder.Finish(_table(builder, fields), file_identifier=b"M001")
    return bytes(builder.Output())


def thresholds_text(known: dict[str, Any]) -> str:
    """Returns one sentence with the thresholds of a preset's metadata, "" where it has none.

    Example:

    >>> thresholds_text({"thresholds": [{"far": 0.01, "threshold": 0.5}]})
    'Thresholds on the cosine: 0.5000 at FAR 0.01.'
    """
    rows = [f"{t['threshold']:.4f} at FAR {t['far']:g}" for t in known.get("thresholds") or []]
    return f"Thresholds on the cosine: {', '.join(rows)}." if rows else ""


def _table(builder: "flatbuffers.Builder", fields: dict[int, Any]) -> int:
    """A table of offsets and, as ("int8", value), small numbers, by the slot of the schema."""
    add: dict[str, Callable[[int, int, int], None]] = {
        "int8": builder.PrependInt8Slot,
        "uint8": builder.PrependUint8Slot,
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, value in fields.items():
        if isinstance(value, tuple):
            add[value[0]](slot, value[1], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: "flatbuffers.Builder", offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: "flatbuffers.Builder", values: Sequence[float]) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.float32)))
