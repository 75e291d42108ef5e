"""What a head takes as its classes grow: memory and seconds a step, measured and by formula.

    python benchmarks/classes.py            # 10,000 to 1,000,000 classes, minutes; 10 GB at most
    KERAS_BACKEND=jax python benchmarks/classes.py

Batch 128, embeddings of 512, ASoftmax whole and with `sampling=0.1` (Partial FC), SGD with
momentum 0.9 (`spherekeras.optimizers`), stock `fit`. Each size has a process of its own. Memory is
the growth of its resident memory from before the model is built to the highest of its steps;
seconds are the median step.
Results: `classes.csv` beside this file, a row for each backend, setting and number of classes, with
10,000,000 by the formula alone.
"""

import csv
import importlib.metadata
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from spherekeras.provenance import processor

BATCH, DIM, STEPS = 128, 512, 6
CLASSES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SAMPLINGS = (None, 0.1)


def predicted(backend: str, sampling: float | None, classes: int) -> float:
    """MiB: whole kernels, parts of them that a step draws, and matrices of logits."""
    kernels, parts, logits = FORMULA[backend, sampling is not None]
    drawn = classes * (sampling or 0.0)
    columns = BATCH + drawn if sampling else classes
    return 4 * (kernels * DIM * classes + parts * DIM * drawn + logits * BATCH * columns) / 2**20


# Arrays alive at the highest moment of a step, each as large as the whole kernel, as the part of it
# that a step draws, as the logits. Without sampling: kernel, momentum, the two terms of its
# gradient and their difference; four matrices of logits. With sampling: kernel, momentum, gradient,
# and one that TensorFlow's allocator keeps from making the first weights.
FORMULA = {
    ("tensorflow", False): (5.0, 0.0, 4.0),
    ("tensorflow", True): (4.0, 1.0, 3.0),
    ("jax", False): (3.5, 0.0, 5.0),  # fitted
    ("jax", True): (4.0, 0.0, 4.0),  # fitted
}


def measured(sampling: float | None, classes: int) -> tuple[float, float]:
    """MiB and seconds a step, of this process."""
    import keras

    import spherekeras as sk

    random = np.random.default_rng(0)
    embeddings = random.normal(size=(BATCH * STEPS, DIM)).astype("float32")

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert np.isfinite(float(logs["loss"]))  # and so the step is done
            ends.append(time.perf_counter())

    def fit(classes: int) -> None:
        labels = random.integers(0, classes, BATCH * STEPS).astype("int32")
        head = sk.layers.ASoftmax(classes, sampling=sampling)
        backbone = keras.layers.Dense(DIM, use_bias=False)  # which wants its gradient
        model = sk.Sequential([keras.Input((DIM,)), backbone, head])
        jit = keras.backend.backend() == "jax"
        model.compile(sk.optimizers.SGD(0.01, 0.9), head.loss(), jit_compile=jit)
        model.fit(embeddings, labels, BATCH, shuffle=False, verbose=0, callbacks=[Clock()])

    ends: list[float] = []
    fit(64)  # what the framework itself takes
    before = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    before_bytes = before * resource.getpagesize()
    ends.clear()
    fit(classes)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes) / 2**20
    return grown, statistics.median(np.diff(ends))


def child(*arguments: Any) -> Any:
    """Runs `measured` in a process of its own."""
    command = [sys.executable, __file__, json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    package = {"tensorflow": "tensorflow-cpu"}.get(backend, backend)
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("keras", package, "numpy")
    )
    machine = f"{len(os.sched_getaffinity(0))} cores of {processor()}"
    path = pathlib.Path(__file__).with_suffix(".csv")
    rows: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["backend"] != backend]
    for sampling in SAMPLINGS:
        for classes in (*CLASSES, 10_000_000):
            known = classes <= CLASSES[-1]
            grown, seconds = child(sampling, classes) if known else (None, None)
            formula = predicted(backend, sampling, classes)
            rows.append(
                {
                    "backend": backend,
                    "sampling": sampling or "",
                    "classes": classes,
                    "mib": round(grown) if known else "",
                    "formula_mib": round(formula),
                    "off": round(grown / formula - 1, 3) if known else "",
                    "seconds_a_step": round(seconds, 4) if known else "",
                    "machine": machine if known else "by the formula",
                    "versions": versions,
                }
            )
            print({key: value for key, value in rows[-1].items() if key not in ("machine",)})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(*json.loads(sys.argv[1]))))
    else:
        main()
