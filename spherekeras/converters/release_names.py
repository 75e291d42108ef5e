"""A SphereFaceNet from arrays named as in the authors' release."""

import re
from typing import Any

from spherekeras.backbones.sphereface_net import UNITS, SphereFaceNet
from spherekeras.converters.channels_first import (
    Arrays,
    Converted,
    refuse_others,
    set_weights,
    shape_of,
)
from spherekeras.errors import DataError

_MAP = 512 * 7  # channels and rows of the last map
_WIDTHS = {6 * _MAP: 96, 7 * _MAP: 112}  # of the crop, by the inputs of the embedding
_TEMPLATES = {96: "sphereface_112x96", 112: "arcface_112x112"}


def release_network(arrays: Arrays, network: str, path: str) -> Converted:
    """Builds the network whose layers are conv1_1, relu1_1 to relu4_3, and fc5.

    Depth, crop and embedding are read from the names and shapes. Where the residual convolutions
    have no bias but 0, it is left away. The classifier fc6 is left out.

    Args:
        arrays: by names such as "conv1_1.weight", channels first; see `channels_first`.
        network: what errors call the network.
        path: what errors call the file.

    Returns:
        The network with the preprocessing of the release: BGR, `(pixel - 127.5) / 128`, no
        mirror rule.

    Raises:
        DataError: it is not such a network; the sentence says where it differs.
    """
    dim, inputs = shape_of("fc5.weight", 2, arrays, network, path)
    if inputs not in _WIDTHS:
        raise DataError(
            f"{path} is not {network}: fc5 has {inputs} inputs in place of "
            f"{' or '.join(map(str, _WIDTHS))}, those of a crop of 112x96 or 112x112."
        )
    width = _WIDTHS[inputs]
    depth = _depth(arrays, network, path)
    sources = layer_names(depth)
    biases = [f"{source}.bias" for layer, source in sources.items() if "_unit" in layer]
    has_bias = any(arrays[name].any() for name in biases if name in arrays)
    if not has_bias:
        arrays = {name: array for name, array in arrays.items() if name not in biases}
    arguments: dict[str, Any] = {
        "depth": depth,
        "embedding_dim": dim,
        "input_shape": [112, width, 3],
        **({"residual_bias": True} if has_bias else {}),
    }
    model = SphereFaceNet(**arguments)
    left_out = set_weights(model, sources, arrays, network, path)
    config = {
        "backbone": "SphereFaceNet",
        "arguments": arguments,
        "template": _TEMPLATES[width],
        "height": 112,
        "width": width,
        "scale": 1 / 128,
        "offset": 127.5,
        "channel_order": "BGR",
    }
    return Converted(model, config, {}, refuse_others(left_out, r"fc6\..*", network, path))


def layer_names(depth: int) -> dict[str, str]:
    """The release's name of each layer of a SphereFaceNet that has weights."""
    names = {"embedding": "fc5"}
    for stage, units in enumerate(UNITS[depth], 1):
        ours = [f"stage{stage}_{{}}"]
        ours += [f"stage{stage}_unit{u}_{{}}{half}" for u in range(1, units + 1) for half in (1, 2)]
        for number, name in enumerate(ours, 1):
            names[name.format("conv")] = f"conv{stage}_{number}"
            names[name.format("prelu")] = f"relu{stage}_{number}"
    return names


def _depth(arrays: Arrays, network: str, path: str) -> int:
    found = {match[0] for name in arrays if (match := re.match(r"conv\d+_\d+(?=\.)", name))}
    for depth in UNITS:
        if found == {name for name in layer_names(depth).values() if name.startswith("conv")}:
            return depth
    counts = [sum(name.startswith(f"conv{stage}_") for name in found) for stage in (1, 2, 3, 4)]
    raise DataError(
        f"{path} is not {network}: {', '.join(map(str, counts))} convolutions in its stages are "
        f"those of no SphereFaceNet (depths {', '.join(map(str, UNITS))})."
    )
