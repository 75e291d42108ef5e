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

from spherekeras.export.copies import again, copied
from spherekeras.export.steps import is_stock, steps_of

_BATCH = 8
_SMALLEST = 1 / 64
"""Of the largest reach: a channel that calibration hardly saw keeps room above what it saw."""


def equalized(model: Any, inputs: np.ndarray) -> Any:
    """Returns a copy of a model with the same outputs, the channels of its maps alike in range.

    Scaled is a map from one stock convolution to another or to a dense layer that nothing else
    reads, with batch norm, PReLU or ReLU (as layers), zero padding and flattening between or
    without. Where a depthwise convolution reads it, each channel comes to reach as far; another
    kernel has its own step to share among channels, and bears a quarter of the inequality. All
    else stays as it is, and so do models inside.

    Args:
        model: a functional `keras.Model` with one input and one output.
        inputs: `(n, ...)`, what the model sees in use; the ranges are measured on it.
    """
    import keras

    copy = copied(model, again)
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
            ReLU, which the file computes within the convolution.
        after: the convolution or dense layer that reads it.
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
        shape = self.after.kernel.shape
        kernel = np.asarray(self.after.kernel)
        if len(shape) == 2:  # a dense layer, most often after a map was flattened
            kernel = kernel.reshape(1, -1, len(reach), shape[1])
        if not is_stock(self.after, "DepthwiseConv2D"):
            # Its channels share one step as well: what the map gains, the kernel loses. A kernel
            # has a step for each output, a map one for all it holds: the map's error is larger.
            largest = np.maximum(np.abs(kernel).max((0, 1, 2)), 1e-30)
            share = (np.abs(kernel) / largest).max((0, 1, 3))
            factor = factor**0.75 / np.maximum(share, _SMALLEST) ** 0.25
        factor = np.maximum(factor / factor[alive].max(initial=1e-30), _SMALLEST)
        factor = np.where(alive, factor, 1.0)
        for weight in _scaling(self.before):
            one_each = len(weight.shape) == 1 or not is_stock(self.before, "DepthwiseConv2D")
            weight.assign(np.asarray(weight) / (factor if one_each else factor[:, None]))
        self.after.kernel.assign((kernel * factor[:, None]).reshape(shape))


def _links(model: Any) -> Iterator[_Link]:
    steps = steps_of(model)
    readers = collections.defaultdict(list)
    owners: collections.Counter[int] = collections.Counter()
    for step in steps:
        owners.update(map(id, getattr(step.layer, "weights", ())))
        for key in step.inputs:
            readers[key].append(step)

    def own(layer: Any) -> bool:
        """Whether its weights serve this one call alone."""
        return all(owners[id(weight)] == 1 for weight in layer.weights)

    for first in steps:
        if not (_convolution(first.layer) and _linear(first.layer) and own(first.layer)):
            continue
        before, held, last, activated = first.layer, first.output, first.output, False
        while len(readers[id(last)]) == 1:
            [step] = readers[id(last)]
            layer = step.layer
            if _convolution(layer) or is_stock(layer, "Dense"):
                if own(layer) and not getattr(layer, "lora_enabled", False):
                    yield _Link(before, held, layer)
                break
            if _norm(layer) and own(layer) and held is last is first.output:
                before, held = layer, step.output
            elif is_stock(layer, "PReLU"):
                activated = True
            elif is_stock(layer, "ReLU") and layer.max_value is None and layer.threshold == 0:
                fused = held is last and not activated and not layer.negative_slope
                held, activated = step.output if fused else held, True
            elif not (
                (is_stock(layer, "ZeroPadding2D") or is_stock(layer, "Flatten"))
                and layer.data_format == "channels_last"
            ):
                break
            last = step.output


def _convolution(layer: Any) -> bool:
    if not (is_stock(layer, "Conv2D") or is_stock(layer, "DepthwiseConv2D")):
        return False
    return getattr(layer, "groups", 1) == 1 and layer.data_format == "channels_last"


def _linear(layer: Any) -> bool:
    import keras

    one_each = getattr(layer, "depth_multiplier", None) in (1, None)
    linear = layer.activation is keras.activations.linear
    return one_each and linear and not getattr(layer, "lora_enabled", False)


def _norm(layer: Any) -> bool:
    return is_stock(layer, "BatchNormalization") and layer.axis in (-1, 3) and layer.scale


def _scaling(layer: Any) -> list[Any]:
    """The weights to which a layer's output is proportional, together."""
    if is_stock(layer, "BatchNormalization"):
        return [layer.gamma, *([layer.beta] if layer.center else [])]
    return [layer.kernel, *([layer.bias] if layer.use_bias else [])]
