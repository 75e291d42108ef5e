"""What checkpoints cost a run: the wait of training, and the work of the thread that writes.

    python benchmarks/checkpoints.py            # a few minutes

Batch 64, random crops, SGD with momentum, bfloat16. A checkpoint is a copy of all weights and their
momentum, for which training waits, and then a thread that writes it while training goes on. The
cost is given as an upper bound, as if the thread's processor time too were taken from training:
(wait + thread's processor time) / (seconds of the 200 steps between two checkpoints, which is a
recipe's default). Results: `checkpoints.csv` beside this file.
"""

import csv
import importlib.metadata
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spherekeras.checkpoints import Checkpoints
from spherekeras.compiling import compile_model
from spherekeras.provenance import processor
from spherekeras.recipe import Backbone, Head, Recipe, Training
from spherekeras.training import build_model

BATCH, STEPS, EVERY = 64, 14, 200
NETWORKS = {
    "MobileFaceNet, 10,572 classes": (Backbone("MobileFaceNet", embedding_dim=128), 10_572),
    "sphere4, 10,572 classes": (Backbone(depth=4), 10_572),
    "sphere20, 10,572 classes": (Backbone(depth=20), 10_572),
    "sphere4, 100,000 classes": (Backbone(depth=4), 100_000),
}


class Timed(Checkpoints):
    """Notes the seconds that a caller of `keep` waits, and the writer's processor time."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.waits: list[float] = []
        self.work: list[float] = []

    def keep(self, model: keras.Model) -> None:
        start = time.perf_counter()
        super().keep(model)
        self.waits.append(time.perf_counter() - start)

    def _write(self, arrays: dict[str, np.ndarray], step: int) -> None:
        start = time.thread_time()
        super()._write(arrays, step)
        self.work.append(time.thread_time() - start)


def measured(backbone: Backbone, classes: int) -> tuple[float, float, float, float]:
    """Seconds a step, of waiting and of work, and the megabytes of a checkpoint."""
    training = Training(batch_size=BATCH, precision="mixed_bfloat16")
    plan = Recipe("benchmark", backbone=backbone, head=Head("ASoftmax"), training=training)
    model = build_model(plan, classes)
    compile_model(model, plan)
    random = np.random.default_rng(0)
    shape = (STEPS * BATCH, 112, backbone.width, 3)
    images = random.integers(0, 256, shape, np.uint8)
    labels = random.integers(0, classes, STEPS * BATCH).astype("int32")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Timed(folder)
        begins: list[float] = []
        seconds: list[float] = []

        class Keep(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                begins.append(time.perf_counter())

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                float(logs["loss"])
                seconds.append(time.perf_counter() - begins[-1])
                if batch >= 2 and batch % 3 == 2:
                    checkpoints.wait()  # so that `keep` waits for no earlier one: 200 steps pass
                    checkpoints.keep(model)

        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH).prefetch(1)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[Keep()])
        checkpoints.wait()
        size = checkpoints.path.stat().st_size / 1e6
    return (
        statistics.median(seconds[2:]),
        statistics.median(checkpoints.waits),
        statistics.median(checkpoints.work),
        size,
    )


def main() -> None:
    rows = []
    for name, (backbone, classes) in NETWORKS.items():
        step, wait, work, size = measured(backbone, classes)
        rows.append(
            {
                "network": name,
                "checkpoint_mb": round(size, 1),
                "step_ms": round(1e3 * step, 1),
                "wait_ms": round(1e3 * wait, 1),
                "writer_ms": round(1e3 * work, 1),
                "cost_percent_at_most": round(100 * (wait + work) / (EVERY * step), 2),
                "machine": f"{len(os.sched_getaffinity(0))} cores of {processor()}",
                "versions": f"keras {keras.__version__} tensorflow {tf.__version__} numpy "
                + importlib.metadata.version("numpy"),
            }
        )
        print(list(rows[-1].values())[:6], flush=True)
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
