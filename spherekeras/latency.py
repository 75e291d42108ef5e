"""How long presets take for a face, side by side on this machine."""

import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from spherekeras.export.tflite import to_tflite
from spherekeras.litert import LiteRTModel

ROUNDS = 25


def latencies(presets: Sequence[Any]) -> list[float]:
    """Returns the milliseconds of one crop's embedding: float32 TFLite, one thread, LiteRT.

    The presets take turns, so that what else the machine does falls on all alike; each number is
    the median of 25 turns. Between machines, and between runs, ratios compare, milliseconds do
    not.

    Args:
        presets: names, folders or `FaceEmbedder`s.

    Raises:
        ExportError: a preset that cannot be exported.
    """
    runs, crops = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, preset in enumerate(presets):
            path = pathlib.Path(scratch) / f"{number}.tflite"
            to_tflite(preset, path)
            runs.append(LiteRTModel(path, threads=1))
            shape = (1, *runs[-1].input_shape)
            crops.append(np.random.default_rng(0).integers(0, 256, shape).astype(np.float32))
            runs[-1](crops[-1])
    times = np.zeros((ROUNDS, len(runs)))
    for turn in times:
        for number, (run, crop) in enumerate(zip(runs, crops, strict=True)):
            started = time.perf_counter()
            run(crop)
            turn[number] = 1000 * (time.perf_counter() - started)
    return [float(median) for median in np.median(times, axis=0)]
