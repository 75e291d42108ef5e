"""Where the time of a training step goes, as a page: input, forward, backward, update, layers."""

import itertools
import pathlib
import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import logging

from spherekeras import html_page, provenance
from spherekeras.complexity import multiplications

PARTS = (
    "waiting for crops",
    "preparing crops",  # on other threads, ahead of time
    "forward",
    "backward",
    "update",
    "compiled by XLA",
)
_XLA = "CpuExecutable::ExecuteAsyncOnStream"  # one compiled function, whatever it holds
_SKIPPED, _RECORDED = 5, 10  # calls: the first ones compile
_STYLE = """
svg.bar { height: 1.8em; border-radius: 6px; } td svg.bar { height: .9em; min-width: 8em; }
.bar rect { fill-opacity: 1; }
.p0 { fill: var(--bad); background: var(--bad); }
.p1 { fill: var(--line); background: var(--line); }
.p2 { fill: var(--same); background: var(--same); }
.p3 { fill: var(--accent); background: var(--accent); }
.p4 { fill: var(--different); background: var(--different); }
.p5 { fill: var(--soft); background: var(--soft); }
.scroll { overflow-x: auto; } td.n, th.n { text-align: right; white-space: nowrap; }
td:last-child { width: 60%; padding-right: 0; vertical-align: middle; }
.legend { list-style: none; margin: .8em 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .3em 1.4em; font-size: .92rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 3px;
  margin-right: .4em; }
"""


class Profile(keras.callbacks.Callback):
    """Records ten training steps after the first five, and writes a page about them.

    `profile.html` tells speed, and on TensorFlow how it divides over parts of the step and over
    layers; `profile/` holds the trace (TensorFlow and JAX) for TensorBoard's profiler.

    Args:
        folder: of the run.
        crops: how many a call of the step takes.

    Example:

    >>> Profile("run", crops=64).page.name
    'profile.html'
    """

    def __init__(self, folder: pathlib.Path | str, crops: int) -> None:
        super().__init__()
        self.page = pathlib.Path(folder) / "profile.html"
        self.trace = pathlib.Path(folder) / "profile"
        self.crops = crops
        self._ends: list[float] = []
        self._waits: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._ends:
            self._waits.append(time.perf_counter() - self._ends[-1])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if len(self._ends) > _SKIPPED + _RECORDED:
            return
        float(logs["loss"])  # and so the step is done
        self._ends.append(time.perf_counter())
        if len(self._ends) == _SKIPPED + 1:
            _start(self.trace)
        elif len(self._ends) == _SKIPPED + _RECORDED + 1:
            _stop()
            self._write()

    def on_train_end(self, logs: Any = None) -> None:
        if _SKIPPED < len(self._ends) <= _SKIPPED + _RECORDED:
            _stop()
        if len(self._ends) <= _SKIPPED + _RECORDED:
            logging.warning(
                "No profile: it needs %d steps, and %d were left",
                _SKIPPED + _RECORDED + 1,
                len(self._ends),
            )

    def _write(self) -> None:
        ends = self._ends[-_RECORDED - 1 :]
        seconds = [after - before for before, after in itertools.pairwise(ends)]
        median = statistics.median(seconds)
        work = (
            6
            * self.crops
            * sum(multiplications(layer) for layer in self.model.layers if hasattr(layer, "layers"))
        )
        speed = {
            "crops a second": f"{self.crops / median:.1f}",
            "a step": f"{1e3 * median:.1f} ms, the slowest {1e3 * max(seconds):.1f} ms, of "
            f"{_RECORDED} after the first {_SKIPPED + 1}, of {self.crops} crops",
            "arithmetic": f"{work / median / 1e9:.1f} GFLOP/s (convolutions and dense layers, "
            "forward and backward)",
        }
        tensorflow = keras.backend.backend() == "tensorflow"
        if keras.backend.backend() == "torch":  # on JAX, Keras fetches within the step
            waited = sum(self._waits[-_RECORDED:]) / sum(seconds)
            speed["waiting for crops"] = f"{waited:.1%} of the time"
        times = operations(self.trace) if tensorflow else Counter()
        facts = {**speed, **provenance.versions(), "processor": provenance.processor()}
        names = {layer.name for layer in self.model._flatten_layers()}
        divided = by_layer(times, names, self.model.optimizer.name)
        html_page.write(
            self.page,
            "Where a training step goes",
            [
                f"<header><h1>{html_page.text(self.model.name)}: <b>{self.crops / median:.1f}</b> "
                "crops a second</h1></header>",
                html_page.section("Speed", html_page.facts(facts)),
                *_sections(divided),
                html_page.section("The trace", f"<p>{html_page.text(_how(self.trace))}</p>"),
            ],
            style=_STYLE,
        )
        logging.info("profile: %s", self.page)


def operations(trace: pathlib.Path) -> Counter[str]:
    """Returns the seconds of each operation ("path:Kind") in TensorFlow's newest trace.

    What XLA compiled, which has no path, is "XLA:XLA".

    Args:
        trace: folder that `tf.profiler.experimental.start` was given.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    newest = max(trace.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns)
    space, seconds = xplane_pb2.XSpace(), Counter[str]()
    space.ParseFromString(newest.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if re.fullmatch(r"[^:\s]+:\w+", name):
                    seconds[name] += event.duration_ps / 1e12
                elif name == _XLA:
                    seconds["XLA:XLA"] += event.duration_ps / 1e12
    return seconds


def by_layer(
    seconds: Mapping[str, float], layers: set[str], optimizer: str
) -> dict[str, dict[str, float]]:
    """Divides the time of operations over the layers whose names their paths hold.

    Args:
        seconds: of each operation, "path:Kind".
        layers: names; "" in the answer takes what belongs to none.
        optimizer: its name.

    Returns:
        For each layer the seconds of each of `PARTS`.

    Example:

    >>> layers = by_layer({"gradient_tape/net_1/head_1/MatMul:MatMul": 2.0}, {"net", "head"}, "sgd")
    >>> list(layers), layers["head"]["backward"], layers["head"]["forward"]
    (['head'], 2.0, 0.0)
    """
    divided: dict[str, dict[str, float]] = {}
    for name, value in seconds.items():
        path, kind = name.rsplit(":", 1)
        steps = [re.sub(r"_\d+$", "", step) for step in path.split("/")]
        known = [
            exact
            for step, plain in zip(path.split("/"), steps, strict=True)
            if (exact := step if step in layers else plain) in layers
        ]
        part = "backward" if "gradient_tape" in steps else "forward"
        if kind.startswith("IteratorGetNext"):
            part = "waiting for crops"
        elif kind.startswith("PyFunc"):
            part = "preparing crops"
        elif kind == "XLA":
            part = "compiled by XLA"
        elif re.sub(r"_\d+$", "", optimizer) in steps:
            part = "update"
        layer = divided.setdefault(known[-1] if known else "", dict.fromkeys(PARTS, 0.0))
        layer[part] += value
    return divided


def _sections(divided: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not divided:
        return []
    total = {part: sum(layer[part] for layer in divided.values()) for part in PARTS}
    whole = sum(total.values()) or 1.0
    legend = "".join(
        f'<li><i class="p{number}"></i>{part} {total[part] / whole:.1%}</li>'
        for number, part in enumerate(PARTS)
    )
    rows = ""
    order = sorted(divided, key=lambda name: -sum(divided[name].values()))
    widest = sum(divided[order[0]].values()) or 1.0
    for name in order[:20]:
        values = divided[name]
        rows += (
            f'<tr><th scope="row">{html_page.text(name or "(in no layer)")}</th>'
            f'<td class="n">{sum(values.values()) / whole:.1%}</td>'
            f"<td>{_bar(values, widest)}</td></tr>"
        )
    note = (
        "Shares of the time that operations took, summed over threads; two that run side by side "
        "count twice."
    )
    return [
        html_page.section(
            "Parts of a step", f'{_bar(total, whole)}<ul class="legend">{legend}</ul><p>{note}</p>'
        ),
        html_page.section(
            "Layers",
            '<div class="scroll"><table><thead><tr><th>layer</th><th class="n">share</th>'
            f"<th></th></tr></thead><tbody>{rows}</tbody></table></div>",
        ),
    ]


def _bar(values: Mapping[str, float], whole: float) -> str:
    ends = np.cumsum([0.0, *(1000 * values[part] / whole for part in PARTS)])
    cells = "".join(
        f'<rect class="p{number}" x="{start:.1f}" width="{end - start:.1f}" height="10"/>'
        for number, (start, end) in enumerate(itertools.pairwise(ends))
        if end > start
    )
    drawing = 'class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true"'
    return f"<svg {drawing}>{cells}</svg>"


def _how(trace: pathlib.Path) -> str:
    if keras.backend.backend() == "torch":
        return "On torch none is kept; torch.profiler makes one."
    return (
        f"Every operation on its thread: pip install xprof tensorboard; tensorboard --logdir "
        f"{trace}"
    )


def _start(folder: pathlib.Path) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.profiler.experimental.start(str(folder))
    elif keras.backend.backend() == "jax":
        import jax

        jax.profiler.start_trace(str(folder))


def _stop() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.profiler.experimental.stop()
    elif keras.backend.backend() == "jax":
        import jax

        jax.profiler.stop_trace()
