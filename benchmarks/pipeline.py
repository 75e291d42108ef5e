"""Crops a second from records to batches, against a bare decode loop.

    python benchmarks/pipeline.py RECORDS        # a records folder of `spherekeras pack`; a minute

Bare: OpenCV decodes the same encoded crops in the same order on as many threads, and nothing else.
The runs alternate, so that a slow spell of the machine meets all of them; medians of the rounds.
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

    runs: dict[str, Callable[[], None]] = {"bare decode loop": bare}
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
    bare_times = seconds["bare decode loop"]
    machine = f"{platform.processor() or platform.machine()}, {threads} CPUs"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("tensorflow-cpu", "numpy", "opencv-python-headless")
    )
    rows = [
        {
            "what": name,
            "crops_per_second": round(rate),
            "to_bare": round(
                statistics.median(b / t for b, t in zip(bare_times, seconds[name], strict=True)), 3
            ),
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
        print(f"{row['what']:24}{row['crops_per_second']:8} crops/s{row['to_bare']:8} of bare")


def decode_all(encoded: list[bytes]) -> None:
    for data in encoded:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
