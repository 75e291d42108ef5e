"""How long `spherekeras verify` takes from the start of its process to its answer.

    python benchmarks/cold_start.py PRESET A.jpg B.jpg YUNET.onnx

Each runtime by turns, nine rounds; the CSV has medians, the slowest round and the most memory.
"""

import csv
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import numpy as np

from spherekeras.provenance import processor

ROUNDS = 9
OUT = pathlib.Path(__file__).with_suffix(".csv")


def once(preset: str, pictures: list[str], model: str, runtime: str) -> tuple[float, float]:
    """Returns seconds and megabytes of one answer."""
    command = [sys.executable, "-m", "spherekeras", "verify", *pictures, "--preset", preset]
    command += ["--runtime", runtime, "--detector-model", model, "--json"]
    with tempfile.TemporaryFile() as answer:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=answer)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        answer.seek(0)
        if b"similarity" not in answer.read():
            raise SystemExit(f"{' '.join(command)} gave no answer")
    return seconds, usage.ru_maxrss / 1000


def main(preset: str, first: str, second: str, model: str) -> None:
    """Measures both runtimes and writes the CSV."""
    runtimes = ("litert", "keras")
    found = np.array(
        [
            [once(preset, [first, second], model, runtime) for runtime in runtimes]
            for _ in range(ROUNDS)
        ]
    )
    packages = ("numpy", "opencv-python-headless", "ai-edge-litert", "keras", "tensorflow-cpu")
    told = {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    with OUT.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["runtime", "preset", "seconds", "slowest", "megabytes", "rounds", *told])
        for place, runtime in enumerate(runtimes):
            seconds, memory = found[:, place, 0], found[:, place, 1]
            numbers = [f"{np.median(seconds):.2f}", f"{seconds.max():.2f}", f"{memory.max():.0f}"]
            rows.writerow([runtime, pathlib.Path(preset).name, *numbers, ROUNDS, *told.values()])
            print(runtime, *numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
