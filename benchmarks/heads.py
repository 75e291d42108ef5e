"""What a head costs: forward, backward and update against a dense layer of the same size.

    python benchmarks/heads.py            # all heads, 10,572 and 100,000 classes, half an hour

Batch 128, embeddings of 512, softmax cross-entropy (each head its own `loss()`), SGD with
momentum 0.9 as in the recipes (for some heads also without, a lighter update), stock `compile` and
the train function that `fit` runs. A few heads and the dense layer live in one process and take
turns, so that a noisy machine is noisy for all; where their memory happens to lie counts too, so
each ratio of medians is itself the median of three processes, and only ratios mean anything. Peak
memory comes from a process for each head: the growth of its resident memory from before the model
is built to its highest during three steps, which counts what the compiler leaves and the gaps
between arrays; and the most that TensorFlow's allocator had given out at once during the third.
The same is measured for pytorch-metric-learning against torch's own dense layer where both are
installed. Three rows are no heads but bounds on what one can cost: the update alone, of a kernel
of which no product is taken; the margin alone on a kernel that is not normalised; and the kernel
normalised with its length held constant in the gradient. Results: `heads.csv` beside this file.
"""

import csv
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, DIM = 128, 512
ROUNDS = {10_572: 40, 100_000: 9}
PROCESSES, TOGETHER = 3, 3
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "NormFace": ("NormFace", {}),
    "ASoftmax": ("ASoftmax", {}),
    "ASoftmax caffe": ("ASoftmax", {"gradient": "caffe"}),
    "ArcFace": ("ArcFace", {}),
    "CosFace": ("CosFace", {}),
    "SphereFaceR v1": ("SphereFaceR", {"version": "v1"}),
    "SphereFaceR v2": ("SphereFaceR", {"version": "v2"}),
    "SphereFace2": ("SphereFace2", {}),
    "CurricularFace": ("CurricularFace", {}),
    "AdaFace": ("AdaFace", {}),
    "MagFace": ("MagFace", {}),
    "ElasticFace": ("ElasticFace", {}),
    "LSoftmax": ("LSoftmax", {}),
    "SphereFacePlus": ("SphereFacePlus", {}),
    "ASoftmax sampling 0.1": ("ASoftmax", {"sampling": 0.1}),
    "CosFace sampling 0.1": ("CosFace", {"sampling": 0.1}),
}
BOUNDS = ("update alone", "margin alone", "norm held constant")
PLAIN_SGD = ("update alone", "ASoftmax", "CosFace", "ASoftmax sampling 0.1", "CosFace sampling 0.1")
MOMENTA = {"SGD momentum 0.9": 0.9, "SGD": 0.0}
TORCH = ("ArcFaceLoss", "CosFaceLoss", "SphereFaceLoss")


def batch(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(BATCH, DIM)).astype("float32")
    return embeddings, random.integers(0, classes, BATCH).astype("int32")


def bound(name: str, classes: int) -> Any:
    """A-Softmax without a part of its work, or without any."""
    import keras
    from keras import ops

    import spherekeras as sk
    from spherekeras.layers.products import normalized_product, own_entries, without_own

    class Update(keras.layers.Layer):
        def build(self, *shapes: Any) -> None:
            self.kernel = self.add_weight(shape=(DIM, classes), name="kernel")

        def call(self, rows: Any, labels: Any) -> Any:
            return rows + self.kernel[0, 0]

        def loss(self) -> Any:
            return lambda labels, rows: ops.mean(rows)

    if name == "update alone":
        return Update()

    class Bound(sk.layers.ASoftmax):
        def products_with_own(self, rows: Any, kernel: Any, labels: Any, scale: Any) -> Any:
            if name == "margin alone":
                products = ops.matmul(rows, kernel)
                own = own_entries(ops.stop_gradient(products), labels)
                return without_own(products, labels), own, scale
            return *normalized_product(rows, kernel, labels, norm_gradient=False), scale

    return Bound(classes)


def keras_step(name: str, classes: int, optimizer: str) -> Callable[[], None]:
    """One training step of a head (or of "Dense") as `fit` runs it."""
    import keras
    import tensorflow as tf

    import spherekeras as sk

    image, y = keras.Input((DIM,)), keras.Input((), dtype="int32")
    x = keras.layers.Dense(DIM, use_bias=False)(image)  # a backbone, which wants its gradient
    if name == "Dense":
        layer = keras.layers.Dense(classes, use_bias=False)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = keras.Model([image, y], layer(x))
    else:
        kind, settings = HEADS.get(name, ("", {}))
        layer = getattr(sk.layers, kind)(classes, **settings) if kind else bound(name, classes)
        loss = layer.loss()
        model = keras.Model([image, y], layer(x, y))
    model.compile(keras.optimizers.SGD(0.01, momentum=MOMENTA[optimizer]), loss)
    data = batch(classes)
    batches = tf.data.Dataset.from_tensors((data, data[1])).repeat().prefetch(1)
    iterator = iter(batches)
    step = model.make_train_function() or model.train_function

    def run() -> None:
        float(step(iterator)["loss"])

    run()
    return run


def torch_step(name: str, classes: int, optimizer: str) -> Callable[[], None]:
    """The same step in torch: a head of pytorch-metric-learning, or torch's dense layer."""
    import torch
    from pytorch_metric_learning import losses

    image, y = (torch.from_numpy(array) for array in batch(classes))
    y, backbone = y.long(), torch.nn.Linear(DIM, DIM, bias=False)
    if name == "Dense":
        layer = torch.nn.Linear(DIM, classes, bias=False)
        cost = torch.nn.CrossEntropyLoss()
        loss = lambda: cost(layer(backbone(image)), y)  # noqa: E731
    else:
        layer = getattr(losses, name)(classes, DIM)
        loss = lambda: layer(backbone(image), y)  # noqa: E731
    weights = [*backbone.parameters(), *layer.parameters()]
    update = torch.optim.SGD(weights, 0.01, momentum=MOMENTA[optimizer])

    def run() -> None:
        update.zero_grad()
        loss().backward()
        update.step()

    run()
    return run


STEPS = {"keras": keras_step, "torch": torch_step}


def times(framework: str, classes: int, names: list[str], optimizer: str) -> dict[str, float]:
    """Median seconds a step, taken in turns."""
    steps = {name: STEPS[framework](name, classes, optimizer) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS[classes]):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def ratios_of(
    framework: str, classes: int, heads: list[str], optimizer: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds a step and their ratio to the dense layer's, medians over processes."""
    taken: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for start in range(0, max(len(heads), 1), TOGETHER):
        for _ in range(PROCESSES):
            names = ["Dense", *heads[start : start + TOGETHER]]
            seconds = child("times", framework, classes, names, optimizer)
            for name in names:
                taken.setdefault(name, []).append(seconds[name])
                ratios.setdefault(name, []).append(seconds[name] / seconds["Dense"])
    middle = statistics.median
    return (
        {name: middle(values) for name, values in taken.items()},
        {name: middle(values) for name, values in ratios.items()},
    )


def memory(framework: str, classes: int, name: str) -> tuple[float, float | None]:
    """MiB by which a process grows at most while it builds and trains one head, and MiB that the
    allocator has given out at most during a step; None where it does not count."""
    small = STEPS[framework](name, 64, "SGD momentum 0.9")  # what the framework itself takes
    small()
    before = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    before_bytes = before * resource.getpagesize()
    step = STEPS[framework](name, classes, "SGD momentum 0.9")
    for _ in range(2):
        step()
    device = allocator() if framework == "keras" else None
    step()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes) / 2**20
    return grown, device and device()["peak"] / 2**20


def allocator() -> Callable[[], dict[str, int]] | None:
    """The counts of TensorFlow's allocator from now on; None where it keeps none."""
    import tensorflow as tf

    try:
        tf.config.experimental.reset_memory_stats("CPU:0")
    except ValueError:  # without oneDNN memory is malloc's
        return None
    return lambda: tf.config.experimental.get_memory_info("CPU:0")


def child(*arguments: Any) -> Any:
    """Runs this file's part in a process of its own and returns its answer."""
    command = [sys.executable, __file__, json.dumps(arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def versions(*names: str) -> str:
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def main() -> None:
    frameworks = {"keras": ([*BOUNDS, *HEADS], versions("keras", "tensorflow-cpu", "numpy"))}
    if importlib.util.find_spec("torch") and importlib.util.find_spec("pytorch_metric_learning"):
        frameworks["torch"] = (list(TORCH), versions("torch", "pytorch-metric-learning"))
    else:
        print("torch and pytorch-metric-learning are not both installed: left out")
    cpu = [
        line.split(":")[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    machine = f"{len(os.sched_getaffinity(0))} cores of {cpu[0] if cpu else platform.machine()}"
    rows = []
    for framework, (heads, version) in frameworks.items():
        for classes in ROUNDS:
            everything = ["Dense", *heads]
            peaks = {name: child("memory", framework, classes, name) for name in everything}
            for optimizer in MOMENTA:
                names = everything
                if optimizer == "SGD":
                    names = ["Dense", *(name for name in heads if name in PLAIN_SGD)]
                seconds, ratios = ratios_of(framework, classes, names[1:], optimizer)
                for name in names:
                    ratio, (peak, given) = ratios[name], peaks[name]
                    more = peak / peaks["Dense"][0]
                    alive = given and given / peaks["Dense"][1]
                    rows.append(
                        {
                            "framework": framework,
                            "optimizer": optimizer,
                            "head": name,
                            "classes": classes,
                            "milliseconds": round(1e3 * seconds[name], 1),
                            "time_ratio": round(ratio, 3),
                            "peak_mib": round(peak),
                            "memory_ratio": round(more, 3),
                            "allocated_mib": given and round(given),
                            "allocated_ratio": alive and round(alive, 3),
                            "machine": machine,
                            "versions": version,
                        }
                    )
                    print(
                        f"{framework} {classes} {optimizer} {name}: x{ratio:.2f}, x{more:.2f}",
                        flush=True,
                    )
    with open(pathlib.Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        part, *rest = json.loads(sys.argv[1])
        print(json.dumps({"times": times, "memory": memory}[part](*rest)))
    else:
        main()
