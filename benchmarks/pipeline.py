"""Crops a second from records to batches, against a bare decode loop.

    python benchmarks/pipeline.py RECORDS        # a records folder of `spherekeras pack`; a minute

Bare: OpenCV decodes the same encoded crops and nothing else, in one plain loop, and on as many
threads as there are cores. The runs alternate, so that a slow spell of the machine meets all of
them; medians of the rounds.
Results go to pipeline.csv beside this file.
"""

import concurrent.futures
import csv
import importlib.metadata
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np

from spherekeras.data import pipeline
from spherekeras.data.augmentation import Augmentation
from spherekeras.data.records import open_records

BATCH, STEPS, ROUNDS = 64, 60, 9
PLANS = {
    "no variation": Augmentation(mirror=False),
    "light: mirror, shift": Augmentation(mirror=True, shift=4),
    "strong: all": Augmentation(True, 4, 0.08, 8, 0.1, 0.3, 0.3, 0.1, 0.15, 0.15, 0.3, 0.3),
}


def main(folder: str) -> None:
    records = open_records(folder)
    threads = os.cpu_count() or 1
    cv2.setNumThreads(1)
    positions = np.arange(len(records))
    order = np.random.default_rng(0).permutation(positions)[: BATCH * STEPS]
    encoded = records.read(order)

    def bare() -> None:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(
                decode_all, (encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH))
            ):
                pass

    runs: dict[str, Callable[[], None]] = {
        "bare decode loop": lambda: decode_all(encoded),
        f"bare, {threads} threads": bare,
    }
    for name, plan in PLANS.items():
        batches = pipeline.Batches(
            records, positions, batch_size=BATCH, seed=0, size=(112, 96), augmentation=plan
        )
        runs[name] = lambda batches=batches: [None for _ in pipeline.dataset(batches, 0, STEPS)]
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    crops = BATCH * STEPS
    rates = {name: crops / statistics.median(times) for name, times in seconds.items()}
    loop, threaded = seconds["bare decode loop"], seconds[f"bare, {threads} threads"]
    machine = f"{platform.processor() or platform.machine()}, {threads} CPUs"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow-cpu", "numpy", "opencv-python-headless")
    )
    rows = [
        {
            "what": name,
            "crops_per_second": round(rate),
            "to_loop": ratio(loop, seconds[name]),
            "to_threads": ratio(threaded, seconds[name]),
            "crops": f"{records.height}x{records.width}, {np.mean([*map(len, encoded)]):.0f} bytes",
            "machine": machine,
            "versions": versions,
        }
        for name, rate in rates.items()
    ]
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['what']:24}{row['crops_per_second']:8} crops/s", end="")
        print(f"{row['to_loop']:8} of the loop{row['to_threads']:8} of the threads")


def ratio(bare: list[float], times: list[float]) -> float:
    return round(statistics.median(b / t for b, t in zip(bare, times, strict=True)), 2)


def decode_all(encoded: list[bytes]) -> None:
    for data in encoded:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
