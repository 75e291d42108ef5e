"""What a crop costs: every file format and precision, on one and two threads, all in one run.

    python benchmarks/latency.py RECORDS PRESET ...

The runs take turns, so what else the machine does falls on all alike. The CSV has the median of 25
turns, its ratio to float32 TFLite on one thread, and the multiplications a second that it means,
counted in the float network: integers do the same work in other operations.
"""

import csv
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version

import cv2
import numpy as np

import spherekeras as sk
from spherekeras.complexity import multiplications
from spherekeras.data.records import Records, open_records
from spherekeras.errors import ExportError
from spherekeras.export import parity
from spherekeras.export.onnx import open_session
from spherekeras.files import atomic_path
from spherekeras.latency import by_turns
from spherekeras.litert import LiteRTModel
from spherekeras.provenance import processor
from spherekeras.teacher import turned

OUT = pathlib.Path(__file__).with_suffix(".csv")
THREADS = (1, 2)


def runs_of(
    faces: sk.FaceEmbedder, crops: np.ndarray, folder: pathlib.Path
) -> dict[tuple[str, int, int], Callable[[], object]]:
    """Returns what embeds one crop, by (format and precision, threads, bytes of the file)."""
    pixels = crops[:1].astype(np.float32)
    channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    found: dict[tuple[str, int, int], Callable[[], object]] = {}
    for quantization in parity.TOLERANCES:
        path = folder / f"{quantization}.tflite"
        try:
            report = sk.export.to_tflite(faces, path, quantization, crops)
        except ExportError as refused:
            print(refused)
            continue
        for threads in THREADS:
            model = LiteRTModel(path, threads)
            found[f"TFLite {quantization}", threads, report.size_bytes] = lambda m=model: m(pixels)
    for layout, given in (("NHWC", pixels), ("NCHW", channels_first)):
        path = folder / f"{layout}.onnx"
        report = sk.export.to_onnx(faces, path, layout=layout)
        for threads in THREADS:
            session = open_session(path, threads)
            key = (f"ONNX {layout}, ONNX Runtime", threads, report.size_bytes)
            found[key] = lambda s=session, g=given: s.run(None, {"image": g})
    network = cv2.dnn.readNetFromONNX(str(path))

    def opencv(threads: int) -> None:
        cv2.setNumThreads(threads)
        network.setInput(channels_first)
        network.forward()

    for threads in THREADS:
        key = ("ONNX NCHW, OpenCV dnn", threads, report.size_bytes)
        found[key] = lambda t=threads: opencv(t)
    return found


def main(records: str, *presets: str) -> None:
    """Measures, prints and writes the CSV."""
    people = open_records(records)
    packages = ("ai-edge-litert", "onnxruntime", "opencv-python-headless", "keras")
    told = {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    head = ["file", "threads", "megabytes", "milliseconds", "ratio", "multiplications_a_ns"]
    with atomic_path(OUT) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["preset", *head, *told])
        for preset in presets:
            name = pathlib.Path(preset).name
            rows.writerows([name, *row, *told.values()] for row in measured(preset, people))


def measured(preset: str, people: Records) -> list[list[object]]:
    """Returns the table's rows of one preset."""
    faces = sk.load_preset(preset)
    chosen = np.arange(0, len(people), max(1, len(people) // 200))
    crops = turned(people, chosen, faces.config)
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of(faces, crops, pathlib.Path(folder))
        medians = by_turns(list(runs.values()))
    count = multiplications(faces.backbone)
    found: list[list[object]] = []
    for (name, threads, size), median in zip(runs, medians, strict=True):
        numbers = (f"{size / 1e6:.2f}", f"{median:.2f}", f"{median / medians[0]:.2f}")
        found.append([name, threads, *numbers, f"{count / median / 1e6:.0f}"])
        print(f"{pathlib.Path(preset).name:24} {name:28} {threads}  {'  '.join(numbers)}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
