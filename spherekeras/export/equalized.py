"""Channels of like range, for a map that shares one integer scale.

An int8 map has one step for all its channels: one channel that reaches 20 leaves four levels to
another that stays under 0.3. A positive factor goes through PReLU and ReLU unchanged, so a factor a
channel can be taken out of the layer before and given to the layer after, and the network computes
what it did.

Source: cross-layer equalisation, arXiv 1906.04721, section 4.1; here the ranges of the maps are
measured, where the paper takes those of the weights for them.
"""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from spherekeras.export.steps import steps_of

_BATCH = 32
_SMALLEST = 1e-3


def equalized(model: Any, inputs: np.ndarray) -> Any:
    """Returns a copy of a model with the same outputs, the channels of its maps alike in range.

    Scaled are maps between two convolutions, with or without batch norm and PReLU or ReLU after the
    first; one that anything else reads stays as it is, and so do models inside the model.

    Args:
        model: a functional `keras.Model` with one input and one output.
        inputs: `(n, ...)`, what the model sees in use; the ranges are measured on it.
    """
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    links = list(_links(copy))
    if links:
        maps = keras.Model(copy.inputs[0], [link.map for link in links])
        reaches = [np.zeros(link.map.shape[-1]) for link in links]
        for start in range(0, len(inputs), _BATCH):
            seen = maps(inputs[start : start + _BATCH], training=False)
            seen = seen if isinstance(seen, list) else [seen]
            for reach, values in zip(reaches, seen, strict=True):
                np.maximum(reach, np.abs(values).max((0, 1, 2)), out=reach)
        for link, reach in zip(links, reaches, strict=True):
            link.divide(reach)
    return copy


@dataclasses.dataclass(frozen=True)
class _Link:
    """A map that one layer scales and one convolution reads.

    Attributes:
        before: the layer with the weights that scale it: a batch norm or a convolution.
        map: its values: before PReLU, whose negative side is a map of the file as well, but after
            ReLU, which files compute within the convolution.
        after: the convolution that reads it.
    """

    before: Any
    map: Any
    after: Any

    def divide(self, reach: np.ndarray) -> None:
        """Divides the map's channels by factors, and multiplies what reads them.

        Args:
            reach: `(channels,)`, the largest absolute value of each.
        """
        alive = reach > 0
        factor = np.where(alive, reach, 1.0)
        kernel = np.asarray(self.after.kernel)
        if not _is(self.after, "DepthwiseConv2D"):
            # Its channels share one step as well: what the map gains, the kernel loses.
            largest = np.maximum(np.abs(kernel).max((0, 1, 2)), 1e-30)
            share = (np.abs(kernel) / largest).max((0, 1, 3))
            factor = np.sqrt(factor / np.maximum(share, _SMALLEST))
        factor = np.maximum(factor / factor[alive].max(initial=1e-30), _SMALLEST)
        factor = np.where(alive, factor, 1.0)
        for weight in _scaling(self.before):
            across = factor[:, None] if _is(self.before, "DepthwiseConv2D") else factor
            across = factor if len(weight.shape) == 1 else across
            weight.assign(np.asarray(weight) / across)
        self.after.kernel.assign(kernel * factor[:, None])


def _links(model: Any) -> Iterator[_Link]:
    steps = steps_of(model)
    readers = collections.defaultdict(list)
    for step in steps:
        for key in step.inputs:
            readers[key].append(step)
    calls = collections.Counter(id(step.layer) for step in steps)

    for first in steps:
        step = first
        if not _convolution(step.layer) or calls[id(step.layer)] > 1:
            continue
        before, held = step.layer, step.output
        passed = False
        while len(readers[id(step.output)]) == 1 and calls[id(step.layer)] == 1:
            [step] = readers[id(step.output)]
            layer = step.layer
            if _convolution(layer):
                if calls[id(layer)] == 1 and _scaling(before):
                    yield _Link(before, held, layer)
                break
            if _is(layer, "BatchNormalization") and before is first.layer and not passed:
                before, held = layer, step.output
            elif _is(layer, "PReLU") or _plain_relu(layer):
                passed = True
                held = step.output if _plain_relu(layer) else held
            elif not _is(layer, "ZeroPadding2D"):
                break


def _is(layer: Any, kind: str) -> bool:
    return any(known.__name__ == kind for known in type(layer).__mro__)


def _convolution(layer: Any) -> bool:
    """Whether it is one whose weights are told apart by channel."""
    if not (_is(layer, "Conv2D") or _is(layer, "DepthwiseConv2D")):
        return False
    plain = layer.activation.__name__ == "linear" and layer.data_format == "channels_last"
    return (
        plain
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "depth_multiplier", 1) in (1, None)
    )


def _plain_relu(layer: Any) -> bool:
    return _is(layer, "ReLU") and layer.max_value is None and layer.threshold == 0


def _scaling(layer: Any) -> list[Any]:
    """The weights to which a layer's output is proportional, together."""
    if not _is(layer, "BatchNormalization"):
        return [layer.kernel, *([layer.bias] if layer.use_bias else [])]
    return [layer.gamma, layer.beta] if layer.scale and layer.center else []
