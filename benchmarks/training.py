"""Images a second in training: this project's networks against the same ones in PyTorch.

    python benchmarks/training.py            # needs torch beside TensorFlow; 15 minutes

sphere20 and sphere4, batch 32, 10,572 classes, SGD with momentum 0.9 and coupled weight decay 5e-4,
from uint8 crops in memory. Here: what `spherekeras train` runs (`compile_model`, A-Softmax, stock
`fit`). There: the same layers in channels_last, a plain dense layer with cross-entropy as its head
(which is less work), torch.optim.SGD. Both in float32, and in bfloat16 as each offers it
(mixed_bfloat16; torch.autocast). The two take turns, a process each, three times; the figure is
the median of the runs' medians. Results: `training.csv` beside this file.
"""

import csv
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from spherekeras.provenance import processor

BATCH, CLASSES, ROUNDS = 32, 10_572, 3
STEPS = {20: 7, 4: 14}  # of which the first two compile
PRECISIONS = ("float32", "bfloat16")


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (steps * BATCH, 112, 96, 3), np.uint8)
    return images, random.integers(0, CLASSES, steps * BATCH).astype("int32")


def ours(depth: int, precision: str) -> tuple[float, int]:
    """Median seconds a step, and the parameters of the backbone."""
    import keras
    import tensorflow as tf

    from spherekeras.compiling import compile_model
    from spherekeras.recipe import Backbone, Head, Optimizer, Recipe, Training
    from spherekeras.training import build_model

    plan = Recipe(
        "benchmark",
        backbone=Backbone(depth=depth),
        head=Head("ASoftmax"),
        optimizer=Optimizer(learning_rate=1e-3),
        training=Training(
            batch_size=BATCH,
            precision={"bfloat16": "mixed_bfloat16"}.get(precision, precision),
        ),
    )
    model = build_model(plan, CLASSES)
    compile_model(model, plan)
    ends: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert np.isfinite(float(logs["loss"]))
            ends.append(time.perf_counter())

    batches = tf.data.Dataset.from_tensor_slices(data(STEPS[depth])).batch(BATCH).prefetch(1)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[Clock()])
    return statistics.median(np.diff(ends)[1:]), model.layers[1].count_params()


def theirs(depth: int, precision: str) -> tuple[float, int]:
    """The same in PyTorch."""
    import torch
    from torch import nn

    from spherekeras.backbones.sphereface_net import CHANNELS, UNITS

    class Unit(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for _ in range(2):
                layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
                layers.append(nn.PReLU(channels))
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return x + self.layers(x)

    layers: list[nn.Module] = []
    before = 3
    for channels, units in zip(CHANNELS, UNITS[depth], strict=True):
        layers += [nn.Conv2d(before, channels, 3, 2, 1), nn.PReLU(channels)]
        layers += [Unit(channels) for _ in range(units)]
        before = channels
    backbone = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 7 * 6, 512))
    model = nn.Sequential(backbone, nn.Linear(512, CLASSES, bias=False))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    update = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=5e-4)
    cost, ends = nn.CrossEntropyLoss(), []
    images, labels = data(STEPS[depth])
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2)
        x = (pixels.float() - 127.5) / 128  # channels_last as it lies
        y = torch.from_numpy(labels[start : start + BATCH]).long()
        update.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = cost(model(x).float(), y)
        loss.backward()
        update.step()
        assert np.isfinite(loss.item())
        ends.append(time.perf_counter())
    return statistics.median(np.diff(ends)[1:]), sum(p.numel() for p in backbone.parameters())


SIDES = {"spherekeras": ours, "torch": theirs}


def child(*arguments: Any) -> Any:
    """Runs one side in a process of its own."""
    command = [sys.executable, __file__, json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    versions = " ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("keras", "tensorflow-cpu", "torch")
    )
    machine = f"{len(os.sched_getaffinity(0))} cores of {processor()}"
    rows = []
    for depth in STEPS:
        for precision in PRECISIONS:
            taken: dict[str, list[float]] = {side: [] for side in SIDES}
            parameters = set()
            for _ in range(ROUNDS):
                for side in SIDES:
                    seconds, count = child(side, depth, precision)
                    taken[side].append(seconds)
                    parameters.add(count)
            assert len(parameters) == 1, parameters  # it is the same network
            speed = {side: BATCH / statistics.median(values) for side, values in taken.items()}
            for side, values in taken.items():
                rows.append(
                    {
                        "network": f"sphere{depth}",
                        "precision": precision,
                        "framework": side,
                        "images_a_second": round(speed[side], 2),
                        "to_torch": round(speed[side] / speed["torch"], 2),
                        "runs": " ".join(f"{BATCH / value:.2f}" for value in values),
                        "machine": machine,
                        "versions": versions,
                    }
                )
                print(list(rows[-1].values())[:6], flush=True)
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, *rest = json.loads(sys.argv[1])
        print(json.dumps(SIDES[name](*rest)))
    else:
        main()
