"""How long presets take for a face, side by side on this machine."""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
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
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, preset in enumerate(presets):
            path = pathlib.Path(scratch) / f"{number}.tflite"
            to_tflite(preset, path)
            model = LiteRTModel(path, threads=1)
            crop = np.random.default_rng(0).integers(0, 256, (1, *model.input_shape))
            runs.append(functools.partial(model, crop.astype(np.float32)))
    return by_turns(runs)


def by_turns(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Returns the median milliseconds of each of several runs, which take 25 turns.

    Args:
        runs: each called once before it is timed.

    Example:

    >>> quick, slow = by_turns([lambda: None, lambda: sum(range(100_000))])
    >>> quick < slow
    True
    """
    times = np.zeros((ROUNDS + 1, len(runs)))
    for turn in times:
        for number, run in enumerate(runs):
            started = time.perf_counter()
            run()
            turn[number] = 1000 * (time.perf_counter() - started)
    return [float(median) for median in np.median(times[1:], axis=0)]
