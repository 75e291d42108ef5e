"""The three networks of MTCNN as TFLite models, from the weights that the package `mtcnn` brings.

The package itself needs TensorFlow and is never imported; only its weight files are read. They are
pickles, and nothing of them is run: a file is taken by its checksum alone, and as all its bytes are
known then, so are the places of the numbers.
"""

import dataclasses
import hashlib
import importlib.util
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from spherekeras.errors import DataError

# What joblib writes of every array ends so; a byte follows that counts the padding behind it.
_END = b"K\x10ub"


@dataclasses.dataclass(frozen=True)
class _Block:
    """A convolution (stride 1, unpadded), PReLU and, where `pool` is its side, max pooling by 2.

    The padding of the pooling is TensorFlow's: "SAME" or "VALID". A dense layer is a convolution
    over all of its map, which the file holds column by column.
    """

    side: int
    filters: int
    pool: int = 0
    padding: str = "SAME"
    dense: bool = False


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A network: the side of its input, its blocks and its heads, which are 1 x 1 convolutions."""

    sha256: str
    side: int
    blocks: tuple[_Block, ...]
    heads: tuple[int, ...]


_PLANS = {
    "pnet": _Plan(
        "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
        12,
        (_Block(3, 10, pool=2), _Block(3, 16), _Block(3, 32)),
        (4, 2),
    ),
    "rnet": _Plan(
        "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
        24,
        (
            _Block(3, 28, pool=3),
            _Block(3, 48, pool=3, padding="VALID"),
            _Block(2, 64),
            _Block(3, 128, dense=True),
        ),
        (4, 2),
    ),
    "onet": _Plan(
        "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
        48,
        (
            _Block(3, 32, pool=3),
            _Block(3, 64, pool=3, padding="VALID"),
            _Block(3, 64, pool=2),
            _Block(2, 128),
            _Block(3, 256, dense=True),
        ),
        (4, 10, 2),
    ),
}


class Network:
    """A TFLite model from `models`, run by LiteRT on one thread. For one caller at a time.

    Args:
        model: its bytes.
    """

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._shape: tuple[int, ...] = ()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Returns what the heads say, one beside the other, of every place of every input.

        Args:
            inputs: float32 `(n, height, width, 3)`, pixels as (value - 127.5) / 128.

        Returns:
            float32 `(n, rows, columns, 6 or 16)`: the box's four offsets, ONet's landmarks (five
            x, five y), and two logits: no face, a face.
        """
        if inputs.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input, inputs.shape)
            self._interpreter.allocate_tensors()
            self._shape = inputs.shape
        self._interpreter.set_tensor(self._input, inputs)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output))


def models() -> list[bytes]:
    """Returns PNet, RNet and ONet as TFLite models of any batch, PNet's of any height and width.

    Raises:
        DataError: the package `mtcnn` (or `lz4`, which it brings) is not installed, or a weight
            file of it is missing, damaged or another.

    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks, 2016, figure 2.
    """
    package = importlib.util.find_spec("mtcnn")
    if package is None or not package.submodule_search_locations:
        raise _missing("mtcnn")
    folder = pathlib.Path(package.submodule_search_locations[0], "assets", "weights")
    return [_model(plan, _content(folder / f"{name}.lz4", plan)) for name, plan in _PLANS.items()]


def _missing(package: str) -> DataError:
    return DataError(
        f"The detector 'mtcnn' needs the package `{package}`. Install it: "
        "`pip install mtcnn==1.0.0`; or name a YuNet model file."
    )


def _content(path: pathlib.Path, plan: _Plan) -> bytes:
    """Reads a weight file and proves that it is the one that is meant."""
    try:
        import lz4.frame
    except ImportError:
        raise _missing("lz4") from None
    try:
        packed = path.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    else:
        if hashlib.sha256(packed).hexdigest() == plan.sha256:
            return bytes(lz4.frame.decompress(packed))
        reason = "is damaged, or is not of mtcnn 1.0.0"
    raise DataError(
        f"{path} {reason}. Expected weights of MTCNN as mtcnn 1.0.0 brings them. Install it "
        "again: `pip install --force-reinstall --no-deps mtcnn==1.0.0`."
    )


def _layers(
    plan: _Plan, content: bytes
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None, _Block]]:
    """Yields kernel `(side, side, channels, filters)`, bias, slopes of the PReLU, and block.

    The heads are the last one, side by side; it has no PReLU.
    """
    start = 0

    def array(*shape: int) -> np.ndarray:
        nonlocal start
        start = content.index(_END, start) + len(_END)
        start += 1 + content[start]
        numbers = np.frombuffer(content, "<f4", math.prod(shape), start)
        start += numbers.nbytes
        return numbers.reshape(shape)

    channels = 3
    for block in plan.blocks:
        kernel = array(block.side, block.side, channels, block.filters)
        if block.dense:
            kernel = kernel.swapaxes(0, 1)
        channels = block.filters
        yield kernel, array(channels), array(channels), block
    heads = [(array(1, 1, channels, size), array(size)) for size in plan.heads]
    kernel, bias = (np.concatenate(parts, axis=-1) for parts in zip(*heads, strict=True))
    yield kernel, bias, None, _Block(1, len(bias))


def _model(plan: _Plan, content: bytes) -> bytes:
    """Writes a network as a TFLite model with one input and one output."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    codes = (kinds.CONV_2D, kinds.PRELU, kinds.MAX_POOL_2D)
    graph, buffers = schema.SubGraphT(), [schema.BufferT()]  # the first holds no data
    graph.tensors, graph.operators = [], []

    def add_tensor(shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type = list(shape), schema.TensorType.FLOAT32
        tensor.name = f"tensor_{len(graph.tensors)}"
        if data is None:
            tensor.shapeSignature = [-1, -1, -1, shape[3]]
        else:
            tensor.buffer = len(buffers)
            buffers.append(schema.BufferT())
            buffers[-1].data = np.frombuffer(data.astype("<f4").tobytes(), np.uint8)
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def add(kind: int, inputs: list[int], shape: tuple[int, ...], options: Any = None) -> int:
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs = codes.index(kind), inputs
        operator.outputs = [add_tensor(shape)]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = options
            options.strideH = options.strideW = 1 if kind == kinds.CONV_2D else 2
        graph.operators.append(operator)
        return operator.outputs[0]

    side = plan.side
    graph.inputs = [value] = [add_tensor((1, side, side, 3))]
    for kernel, bias, slopes, block in _layers(plan, content):
        side -= block.side - 1
        filters = kernel.transpose(3, 0, 1, 2)
        convolution = schema.Conv2DOptionsT()
        convolution.padding = schema.Padding.VALID
        inputs = [value, add_tensor(filters.shape, filters), add_tensor(bias.shape, bias)]
        value = add(kinds.CONV_2D, inputs, (1, side, side, block.filters), convolution)
        if slopes is not None:
            inputs = [value, add_tensor((1, 1, block.filters), slopes)]
            value = add(kinds.PRELU, inputs, (1, side, side, block.filters))
        if block.pool:
            pooling = schema.Pool2DOptionsT()
            pooling.filterHeight = pooling.filterWidth = block.pool
            pooling.padding = getattr(schema.Padding, block.padding)
            side = -(-side // 2) if block.padding == "SAME" else (side - block.pool) // 2 + 1
            value = add(kinds.MAX_POOL_2D, [value], (1, side, side, block.filters), pooling)
    graph.outputs = [value]

    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], buffers
    model.operatorCodes = []
    for kind in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kind
        code.version = 1
        model.operatorCodes.append(code)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
