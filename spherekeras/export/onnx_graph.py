"""A Keras network as ONNX nodes, channels first: no transposes, batch norm and padding folded.

ONNX knows channels-first convolutions alone. A converter that follows TensorFlow's graph wraps them
in transposes and takes PReLU to pieces; here each layer becomes the one operator that ONNX has for
it, from the layer's own weights, on whatever backend Keras runs.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spherekeras.errors import ExportError
from spherekeras.export.steps import computes_as, steps_of

if TYPE_CHECKING:
    import keras
    import onnx

Pads = tuple[int, int, int, int]  # top, left, bottom, right
_NONE: Pads = (0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph, and what is still to be done to it.

    Attributes:
        name: in the graph.
        shape: channels last and without the batch, as Keras has it.
        pads: zeros still to be put around it; a convolution takes them in.
        flat: the map (height, width, channels) that it was flattened from, where its order is still
            channels first; a dense layer takes that in.
        shared: whether several layers read it, in this model or in one around it.
    """

    name: str
    shape: tuple[int, ...]
    pads: Pads = _NONE
    flat: tuple[int, int, int] | None = None
    shared: bool = False


class Graph:
    """Nodes and constants, named by their place, so that the same network gives the same bytes.

    Args:
        opset: version of the operators.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns its output's name."""
        from onnx import helper

        name = f"{operator}_{len(self.nodes)}"
        output = f"{name}_output"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def constant(self, value: NDArray[Any], name: str) -> str:
        """Adds a constant and returns its name, with a number where another has the name."""
        from onnx import numpy_helper

        made = numpy_helper.from_array(np.ascontiguousarray(value), name)
        number = 0
        while self.constants.get(made.name, made) != made:
            number += 1
            made.name = f"{name}_{number}"
        self.constants[made.name] = made
        return str(made.name)

    def integers(self, values: Sequence[int], name: str) -> str:
        """Adds a list of integers, as axes and sizes are given."""
        return self.constant(np.array(values, np.int64), name)

    def rename(self, name: str, wanted: str) -> None:
        """Gives the output of the last node another name."""
        if not self.nodes or self.nodes[-1].output[0] != name:
            name = self.emit("Identity", name)
        self.nodes[-1].output[0] = wanted

    def renew(
        self, node: "onnx.NodeProto", place: int, change: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        """Replaces a constant that a node takes, for that node alone."""
        from onnx import numpy_helper

        name = node.input[place]
        value = change(numpy_helper.to_array(self.constants[name]))
        if sum(name in other.input for other in self.nodes) == 1:
            self.constants[name] = numpy_helper.from_array(value, name)
        else:
            node.input[place] = self.constant(value, name)


def add_network(graph: Graph, model: "keras.Model", value: Value, prefix: str = "") -> Value:
    """Adds a Keras network to a graph.

    Args:
        graph: takes the nodes.
        model: Functional or Sequential, one input, one output, of the layers that `LAYERS` names.
        value: its input, channels first.
        prefix: of its constants, where a graph holds a network twice.

    Returns:
        Its output; a map stays channels first.

    Raises:
        ExportError: a layer that is not known here, or a setting of it.
    """
    steps = steps_of(model)
    uses = collections.Counter(key for step in steps for key in step.inputs)
    values: dict[int, Value] = {}

    def keep(tensor: Any, value: Value) -> None:
        several = value.shared or uses[id(tensor)] > 1
        values[id(tensor)] = dataclasses.replace(value, shared=several)

    keep(model.inputs[0], value)
    for step in steps:
        layer, given = step.layer, [values[key] for key in step.inputs]
        place = _Place(graph, layer, prefix + layer.name, step.shape)
        if step.extras:
            raise place.refuse(f"{', '.join(repr(x)[:40] for x in step.extras)} beside its input")
        if getattr(layer, "layers", None) and getattr(layer, "inputs", None):
            keep(step.output, add_network(graph, layer, given[0], f"{prefix}{layer.name}/"))
            continue
        write = _writer(layer)
        if write is None:
            raise ExportError(
                f"The ONNX exporter knows no {type(layer).__name__}, which {layer.name!r} of "
                f"{model.name!r} is. Build the model from {', '.join(LAYERS)}."
            )
        if getattr(layer, "lora_enabled", False):
            raise place.refuse("LoRA weights of its own")
        if getattr(layer, "quantization_mode", None):
            raise place.refuse("weights that Keras has quantised")
        keep(step.output, write(place, *given))
    return values[id(model.outputs[0])]


def _writer(layer: Any) -> Callable[..., Value] | None:
    """What writes a layer, if it computes what Keras' layer of that name does."""
    for kind in type(layer).__mro__:
        library = kind.__module__.split(".")[0]
        if kind.__name__ in LAYERS and library in ("keras", "spherekeras"):
            return LAYERS[kind.__name__] if computes_as(layer, kind) else None
    return None


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a layer is written."""

    graph: Graph
    layer: Any
    name: str
    shape: tuple[int, ...]

    def weights(self) -> list[NDArray[np.float64]]:
        return [np.asarray(weight, np.float64) for weight in self.layer.get_weights()]

    def constant(self, value: NDArray[Any], part: str) -> str:
        return self.graph.constant(np.asarray(value, np.float32), f"{self.name}/{part}")

    def refuse(self, what: str) -> ExportError:
        return ExportError(
            f"The ONNX exporter does not know {self.layer.name!r} with {what}. Received: a "
            f"{type(self.layer).__name__}. Write that step as a layer of its own, or leave it out."
        )


def _conv(place: _Place, value: Value) -> Value:
    import keras

    layer = place.layer
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel, *bias = place.weights()
    if layer.data_format != "channels_last" or (depthwise and layer.depth_multiplier != 1):
        raise place.refuse("channels first, or a depth multiplier")
    size, strides, dilation = kernel.shape[:2], tuple(layer.strides), tuple(layer.dilation_rate)
    pads = value.pads
    height, width, channels = value.shape
    if layer.padding == "same":
        value = _padded(place.graph, value)
        pads = _same((height, width), size, strides, dilation)
    if depthwise:
        kernel = kernel.transpose(2, 3, 0, 1)
    else:
        kernel = kernel.transpose(3, 2, 0, 1)
    inputs = [place.constant(kernel, "kernel")]
    inputs += [place.constant(b, "bias") for b in bias]
    output = place.graph.emit(
        "Conv",
        value.name,
        *inputs,
        kernel_shape=list(size),
        strides=list(strides),
        dilations=list(dilation),
        pads=list(pads),
        group=channels if depthwise else layer.groups,
    )
    return _activated(place, Value(output, place.shape))


def _dense(place: _Place, value: Value) -> Value:
    kernel, *bias = place.weights()
    if len(value.shape) != 1:
        raise place.refuse("an input that is not flat")
    if value.flat:
        height, width, channels = value.flat
        kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
        kernel = kernel.reshape(height * width * channels, -1)
    inputs = [place.constant(kernel, "kernel")]
    inputs += [place.constant(b, "bias") for b in bias]
    output = place.graph.emit("Gemm", value.name, *inputs)
    return _activated(place, Value(output, (kernel.shape[1],)))


def _batch_norm(place: _Place, value: Value) -> Value:
    layer = place.layer
    if layer.axis not in (-1, len(value.shape)):
        raise place.refuse(f"axis={layer.axis}")
    names = [weight.name for weight in layer.weights]
    weights = dict(zip(names, place.weights(), strict=True))
    ones = np.ones_like(weights["moving_mean"])
    scale = weights.get("gamma", ones) / np.sqrt(weights["moving_variance"] + layer.epsilon)
    shift = weights.get("beta", 0 * ones) - weights["moving_mean"] * scale
    graph = place.graph
    last = graph.nodes[-1] if graph.nodes else None
    if (
        not value.shared
        and last is not None
        and last.output[0] == value.name
        and last.op_type in ("Conv", "Gemm")
        and value.pads == _NONE
    ):
        _fold(graph, last, scale, shift, place)
        return value
    value = settled(graph, value)
    inputs = [
        place.constant(scale, "scale"),
        place.constant(shift, "shift"),
        place.constant(0 * ones, "mean"),
        place.constant(ones, "variance"),
    ]
    return Value(graph.emit("BatchNormalization", value.name, *inputs, epsilon=0.0), value.shape)


def _fold(
    graph: Graph, node: "onnx.NodeProto", scale: NDArray[Any], shift: NDArray[Any], place: _Place
) -> None:
    """Multiplies the last convolution's or dense layer's outputs by `scale` and adds `shift`."""
    wide = scale.reshape(-1, 1, 1, 1) if node.op_type == "Conv" else scale
    graph.renew(node, 1, lambda kernel: (kernel * wide).astype(np.float32))
    if len(node.input) == 3:
        graph.renew(node, 2, lambda bias: (bias * scale + shift).astype(np.float32))
    else:
        node.input.append(place.constant(shift, "shift"))


def _prelu(place: _Place, value: Value) -> Value:
    (alpha,) = place.weights()
    value = settled(place.graph, value)
    if len(value.shape) == 3:
        if alpha.shape[:2] != (1, 1):
            raise place.refuse("a slope for every place (set shared_axes=[1, 2])")
        alpha = alpha.reshape(-1, 1, 1)
    slope = place.constant(alpha, "slope")
    return Value(place.graph.emit("PRelu", value.name, slope), value.shape)


def _relu(place: _Place, value: Value) -> Value:
    layer = place.layer
    if layer.max_value is not None or layer.threshold or layer.negative_slope:
        raise place.refuse("a limit, threshold or slope")
    value = settled(place.graph, value)
    return Value(place.graph.emit("Relu", value.name), value.shape)


def _add(place: _Place, *values: Value) -> Value:
    first, *others = (settled(place.graph, value) for value in values)
    for other in others:
        if other.shape != first.shape:
            raise place.refuse(f"shapes {first.shape} and {other.shape}")
        first = Value(place.graph.emit("Add", first.name, other.name), first.shape)
    return first


def _zero_padding(place: _Place, value: Value) -> Value:
    value = _padded(place.graph, value)
    (top, bottom), (left, right) = place.layer.padding
    shape = (value.shape[0] + top + bottom, value.shape[1] + left + right, value.shape[2])
    return dataclasses.replace(value, shape=shape, pads=(top, left, bottom, right))


def _pad(place: _Place, value: Value) -> Value:
    operation = place.layer
    pads = [tuple(pair) for pair in operation.pad_width]
    if operation.mode != "constant" or len(value.shape) != 3 or pads[0] != (0, 0):
        raise place.refuse("another padding than zeros around a map")
    value = settled(place.graph, value)
    order = [pads[0], pads[3], pads[1], pads[2]]
    sizes = [pair[0] for pair in order] + [pair[1] for pair in order]
    widths = place.graph.integers(sizes, f"{place.name}/pads")
    shape = tuple(n + sum(p) for n, p in zip(value.shape, pads[1:], strict=True))
    return Value(place.graph.emit("Pad", value.name, widths), shape)


def _pool(operator: str) -> Callable[[_Place, Value], Value]:
    def write(place: _Place, value: Value) -> Value:
        layer = place.layer
        if layer.padding != "valid" or layer.data_format != "channels_last":
            raise place.refuse("padding or channels first")
        value = settled(place.graph, value)
        output = place.graph.emit(
            operator,
            value.name,
            kernel_shape=list(layer.pool_size),
            strides=list(layer.strides),
        )
        return Value(output, place.shape)

    return write


def _global_pool(place: _Place, value: Value) -> Value:
    value = settled(place.graph, value)
    pooled = place.graph.emit("GlobalAveragePool", value.name)
    if place.layer.keepdims:
        return Value(pooled, (1, 1, value.shape[-1]))
    return Value(place.graph.emit("Flatten", pooled), value.shape[-1:])


def _flatten(place: _Place, value: Value) -> Value:
    value = settled(place.graph, value)
    if len(value.shape) == 1:
        return value
    if len(value.shape) == 2:  # no map, no order of channels
        return Value(place.graph.emit("Flatten", value.name), (math.prod(value.shape),))
    height, width, channels = value.shape
    flat = None if height * width == 1 or channels == 1 else (height, width, channels)
    output = place.graph.emit("Flatten", value.name)
    return Value(output, (height * width * channels,), flat=flat)


def _unit(place: _Place, value: Value) -> Value:
    if len(value.shape) != 1:
        raise place.refuse("an input that is not flat")
    value = settled(place.graph, value)
    return Value(normalised(place.graph, value.name, place.name), value.shape)


def _nothing(place: _Place, value: Value) -> Value:
    return value


def normalised(graph: Graph, name: str, prefix: str = "") -> str:
    """Adds `x / max(|x|, 1e-15)` over the rows of a matrix and returns its name."""
    square = graph.emit("Mul", name, name)
    axes = graph.integers([1], f"{prefix}/axes")
    least = graph.constant(np.array(1e-30, np.float32), f"{prefix}/least")
    total = graph.emit("ReduceSum", square, axes, keepdims=1)
    length = graph.emit("Sqrt", graph.emit("Max", total, least))
    return graph.emit("Div", name, length)


def _activated(place: _Place, value: Value) -> Value:
    import keras

    activation = place.layer.activation
    if _computes(activation, keras.activations.linear):
        return value
    if not _computes(activation, keras.activations.relu):
        raise place.refuse(f"the activation {getattr(activation, '__name__', activation)!r}")
    return Value(place.graph.emit("Relu", value.name), value.shape)


def _computes(activation: Any, stock: Any) -> bool:
    """Whether it is a function of Keras, or another library's that bears its name and is the same.

    One of the user's own may limit what only rarely comes; it is told from those by its values.
    """
    import keras

    if activation is stock:
        return True
    if getattr(activation, "__name__", "") != stock.__name__:
        return False
    some = np.array([-1e30, -1e3, -7, -0.5, 0, 0.5, 7, 1e3, 1e30], np.float32)
    got, wanted = (
        keras.ops.convert_to_numpy(f(keras.ops.convert_to_tensor(some)))
        for f in (activation, stock)
    )
    return bool(np.array_equal(got, wanted))


def _activation(place: _Place, value: Value) -> Value:
    return _activated(place, settled(place.graph, value))


def _padded(graph: Graph, value: Value) -> Value:
    """The value with its zeros around it."""
    if value.pads == _NONE:
        return value
    top, left, bottom, right = value.pads
    widths = graph.integers([0, 0, top, left, 0, 0, bottom, right], f"{value.name}/pads")
    return Value(graph.emit("Pad", value.name, widths), value.shape)


def settled(graph: Graph, value: Value) -> Value:
    """Returns the value with nothing left to be done to it."""
    if value.flat:
        height, width, channels = value.flat
        shape = graph.integers([-1, channels, height * width], f"{value.name}/map")
        parts = graph.emit("Reshape", value.name, shape)
        turned = graph.emit("Transpose", parts, perm=[0, 2, 1])
        return Value(graph.emit("Flatten", turned), value.shape)
    return _padded(graph, value)


def _same(
    size: tuple[int, int],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Pads:
    """The zeros of Keras' padding "same": the odd one at bottom and right."""
    pads = []
    for length, extent, stride, step in zip(size, kernel, strides, dilation, strict=True):
        reach = (extent - 1) * step + 1
        total = max((math.ceil(length / stride) - 1) * stride + reach - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads[0][0], pads[1][0], pads[0][1], pads[1][1]


LAYERS: dict[str, Callable[..., Value]] = {
    "Activation": _activation,
    "Add": _add,
    "AveragePooling2D": _pool("AveragePool"),
    "BatchNormalization": _batch_norm,
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _conv,
    "Dropout": _nothing,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pool,
    "MaxPooling2D": _pool("MaxPool"),
    "PReLU": _prelu,
    "Pad": _pad,
    "ReLU": _relu,
    "UnitNormalization": _unit,
    "ZeroPadding2D": _zero_padding,
}
