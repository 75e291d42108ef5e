"""Weights of a channel-first network (PyTorch, Caffe) put into a Keras model."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from spherekeras.errors import DataError

Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted network and what has to travel with its weights.

    Attributes:
        model: from normalised crops to embeddings.
        config: arguments of `spherekeras.presets.PresetConfig`.
        metadata: what is known of the weights, for a preset's card.
        left_out: what else the file holds: a classifier, an optimiser.
    """

    model: keras.Model
    config: dict[str, Any]
    metadata: dict[str, Any]
    left_out: tuple[str, ...] = ()


def set_weights(
    model: keras.Model, sources: Mapping[str, str], arrays: Arrays, network: str, path: str
) -> tuple[str, ...]:
    """Sets a model's weights from a file's named arrays.

    What a layer called `a` has in the file: a convolution or dense layer `a.weight` (outputs,
    inputs, rows, columns or outputs, inputs) and `a.bias`; PReLU `a.weight`; batch normalisation
    `a.weight`, `a.bias`, `a.running_mean`, `a.running_var`. A dense layer after `Flatten` takes
    its inputs in the order channels, rows, columns.

    Args:
        model: whose weights are set.
        sources: for each of its layers with weights the name in the file.
        arrays: of the file, by name.
        network: what errors call the network.
        path: what errors call the file.

    Returns:
        The names that were not used.

    Raises:
        DataError: arrays are missing, of another shape, or not finite; the sentence names them.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for layer in model.layers:
        for part, weight in zip(_parts(layer), layer.weights, strict=True):
            wanted[f"{sources[layer.name]}.{part}"] = _source_shape(layer, tuple(weight.shape))
    missing = [name for name in wanted if name not in arrays]
    shapes = {name: arrays[name].shape for name in wanted if name in arrays}
    wrong = [
        f"{name} is {shape} in place of {wanted[name]}"
        for name, shape in shapes.items()
        if shape != wanted[name]
    ]
    if missing or wrong:
        faults = [listed(missing) + " missing"] if missing else []
        raise DataError(f"{path} is not {network}: {'; '.join([*faults, *wrong[:3]])}.")
    for name in wanted:
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{path} is damaged: {name} is not finite. Fetch it again.")
    flattened = _flattened(model)
    for layer in model.layers:
        if layer.weights:
            source = sources[layer.name]
            values = [arrays[f"{source}.{part}"] for part in _parts(layer)]
            values[0] = _channels_last(layer, values[0], flattened)
            layer.set_weights([np.asarray(value, np.float32) for value in values])
    return tuple(name for name in arrays if name not in wanted)


def refuse_others(
    left_out: Sequence[str], allowed: str, network: str, path: str
) -> tuple[str, ...]:
    """Returns the names left out, where each is of a kind that does not belong to the backbone.

    Raises:
        DataError: a name that `allowed`, a pattern, does not match.
    """
    others = [name for name in left_out if not re.fullmatch(allowed, name)]
    if others:
        raise DataError(f"{path} is not {network}: {listed(others)} unexpected.")
    return tuple(left_out)


def shape_of(name: str, axes: int, arrays: Arrays, network: str, path: str) -> tuple[int, ...]:
    """Returns the shape of the array from which a network's size is read.

    Raises:
        DataError: it is missing, or of another number of axes.
    """
    shape = arrays[name].shape if name in arrays else ()
    if len(shape) != axes:
        what = f"is {shape}" if name in arrays else "is missing"
        raise DataError(f"{path} is not {network}: {name} {what}.")
    return shape


def listed(names: Sequence[str]) -> str:
    """The first names and how many more there are, with their verb."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"


def _parts(layer: layers.Layer) -> list[str]:
    """What the file calls a layer's weights, in Keras' order."""
    if isinstance(layer, layers.BatchNormalization):
        return ["weight", "bias", "running_mean", "running_var"]
    return ["weight", "bias"][: len(layer.weights)]


def _source_shape(layer: layers.Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, layers.Conv2D) and len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return shape[::-1] if len(shape) == 2 else shape[-1:]


def _channels_last(
    layer: layers.Layer, values: NDArray[Any], flattened: tuple[int, int, int]
) -> NDArray[Any]:
    if isinstance(layer, layers.Conv2D):
        return values.transpose(2, 3, 1, 0)
    if isinstance(layer, layers.Dense):
        rows, columns, channels = flattened
        values = values.reshape(-1, channels, rows, columns).transpose(2, 3, 1, 0)
        return values.reshape(rows * columns * channels, -1)
    return values.reshape(layer.weights[0].shape)


def _flattened(model: keras.Model) -> tuple[int, int, int]:
    """(rows, columns, channels) of the map before the dense layer."""
    [flatten] = [layer for layer in model.layers if isinstance(layer, layers.Flatten)]
    return tuple(flatten.input.shape[1:])
