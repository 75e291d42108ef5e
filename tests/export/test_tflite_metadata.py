"""TFLite's standard metadata, read back field by field as metadata_schema.fbs numbers them."""

import json
import os
import pathlib
import subprocess

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

from spherekeras.embedder import FaceEmbedder
from spherekeras.export import to_tflite

KNOWN = {
    "name": "tiny",
    "description": "A test.",
    "weights_licence": "CC0-1.0",
    "terms": "None.",
    "thresholds": [{"far": 0.01, "threshold": 0.5, "tar": 0.7, "data": "a test"}],
}


@pytest.fixture(scope="module")
def file(embedder, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "face.tflite"
    to_tflite(FaceEmbedder(embedder.backbone, embedder.config, KNOWN), path)
    return path


def place(table, slot):
    """Where a field of a table lies; 0 for one that is not there."""
    offset = table.Offset(4 + 2 * slot)
    return offset and offset + table.Pos


def text(table, slot):
    return table.String(place(table, slot)).decode()


def inner(table, slot):
    return Table(table.Bytes, table.Indirect(place(table, slot)))


def rows(table, slot):
    offset = table.Offset(4 + 2 * slot)
    start = table.Vector(offset)
    return [
        Table(table.Bytes, table.Indirect(start + 4 * index))
        for index in range(table.VectorLen(offset))
    ]


def floats(table, slot):
    return table.GetVectorAsNumpy(
        flatbuffers.number_types.Float32Flags, table.Offset(4 + 2 * slot)
    ).tolist()


def byte(table, slot):
    return table.Get(flatbuffers.number_types.Uint8Flags, place(table, slot))


def metadata(path):
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    [entry] = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    start = int.from_bytes(content[:4], "little")
    return Table(bytearray(content), start)


def test_a_program_reads_what_to_feed_and_what_it_may_do(file):
    model = metadata(file)
    assert text(model, 0) == "tiny" and text(model, 1) == "A test."
    assert text(model, 5) == "CC0-1.0 None." and text(model, 7) == "1.0.0"
    [graph] = rows(model, 3)
    [pixels], [embedding] = rows(graph, 2), rows(graph, 3)
    assert text(pixels, 0) == "image" and "sphereface_112x96, 32 high, 28 wide" in text(pixels, 1)
    content = inner(pixels, 3)
    assert byte(content, 0) == 2  # ImageProperties
    assert byte(inner(content, 1), 0) == 1  # RGB
    [unit] = rows(pixels, 4)
    assert byte(unit, 0) == 1  # NormalizationOptions
    assert floats(inner(unit, 1), 0) == [0.0] and floats(inner(unit, 1), 1) == [1.0]
    assert floats(inner(pixels, 5), 0) == [255.0] and floats(inner(pixels, 5), 1) == [0.0]
    assert text(embedding, 0) == "embedding"
    assert text(embedding, 1).endswith("Thresholds on the cosine: 0.5000 at FAR 0.01.")
    assert byte(inner(embedding, 3), 0) == 1  # FeatureProperties


def test_weights_may_be_mapped(file):
    content = file.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    places = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength() > 0:
            table = buffer._tab
            places.append(table.Vector(table.Offset(4)))
    assert len(places) > 5 and all(place % 16 == 0 for place in places)


def test_mediapipe_runs_the_file(embedder, crops, file, tmp_path):
    """As its image embedder takes any file: by its metadata alone."""
    python = os.environ.get("SPHEREKERAS_MEDIAPIPE")
    if not python:
        pytest.skip(
            "mediapipe brings an OpenCV of its own: install it in an environment of its own and "
            "set SPHEREKERAS_MEDIAPIPE to that environment's python"
        )
    np.save(tmp_path / "crops.npy", crops)
    client = pathlib.Path(__file__).parents[2] / "examples" / "mediapipe" / "client.py"
    done = subprocess.run(
        [python, client, file, tmp_path / "crops.npy"], capture_output=True, text=True, check=True
    )
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(found, embedder.embed(crops), atol=1e-5)
