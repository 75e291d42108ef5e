"""OpenSphere's networks, of the SphereFace authors' PyTorch library."""

import os
import re
from typing import Any

from spherekeras.backbones.iresnet import BLOCKS, IResNet
from spherekeras.backbones.sfnet import SFNet
from spherekeras.backbones.sphereface_net import UNITS
from spherekeras.converters.channels_first import (
    Arrays,
    Converted,
    refuse_others,
    set_weights,
    shape_of,
)
from spherekeras.converters.state_dict import read_state_dict
from spherekeras.errors import DataError

_NETWORK = "one of OpenSphere's networks"
_LICENCE = "unknown: see the source (github.com/ydwen/opensphere)"
_TERMS = (
    "OpenSphere's code is under the MIT licence; it states none for its weights, which are trained "
    "on VGGFace2, MS1M, WebFace or Glint360K, whose terms hold. InsightFace, whose files have the "
    "same names, gives its models for non-commercial research only."
)


def convert_opensphere(path: str | os.PathLike[str], network: str | None = None) -> Converted:
    """Turns the weights of OpenSphere's SFNet or IResNet into `SFNet` or `IResNet`.

    Depth, batch normalisation and embedding are read from the names and shapes; the library's
    own files `backbone_*.pth`, `model_*.pth`, `checkpoint_*.pth` and `ckpt_*.pth` are taken, of
    which heads and optimisers are left out. IResNets of InsightFace's PyTorch code have the same
    names.

    Without batch normalisation two networks have the same names and shapes and compute
    different things: `sfnet20` ends a residual unit in the sum, then ReLU, `sfnet20_deprecated`
    in ReLU, then the sum. Which it is stands in the `config.yml` beside the weights.

    Args:
        path: the `.pth` file.
        network: the backbone's `type` in `config.yml`, such as "sfnet20_deprecated", "sfnet64" or
            "iresnet100"; needed where the weights do not tell.

    Raises:
        DataError: see `read_state_dict`; or the weights are not those of such a network, or of
            another than `network`, or of one of two.

    Example::

        converted = convert_opensphere("backbone_70000.pth", "sfnet20_deprecated")
        embeddings = converted.model.predict((crops - 127.5) / 127.5)

    Source: github.com/ydwen/opensphere (model/backbone, dataset/utils.py, runner.py).
    """
    arrays, left_out = read_state_dict(path, "model", "backbone")
    dim, inputs = shape_of("fc.weight", 2, arrays, _NETWORK, str(path))
    if inputs != 512 * 7 * 7:
        raise DataError(
            f"{path} is not {_NETWORK}: fc has {inputs} inputs in place of {512 * 7 * 7}, those of "
            "a crop of 112x112."
        )
    kind = "iresnet" if "prelu.weight" in arrays else "sfnet"
    depth = _depth(arrays, kind, str(path))
    name = f"{kind}{depth}"
    arguments: dict[str, Any] = {
        "depth": depth,
        "embedding_dim": dim,
        "input_shape": [112, 112, 3],
    }
    if kind == "iresnet":
        model, sources = IResNet(**arguments), _iresnet_names(depth)
    else:
        arguments["batch_norm"] = "features.weight" in arrays
        arguments["add_first"] = _add_first(arrays, depth, network, str(path))
        name += "" if arguments["add_first"] else "_deprecated"
        model, sources = SFNet(**arguments), _sfnet_names(depth, arrays)
    if network not in (None, name):
        raise DataError(f"{path} fits {name}, not {network}. Leave `--network` out, or correct it.")
    unused = set_weights(model, sources, arrays, f"OpenSphere's {name}", str(path))
    refuse_others(unused, "", f"OpenSphere's {name}", str(path))
    config = {
        "backbone": "SFNet" if kind == "sfnet" else "IResNet",
        "arguments": arguments,
        "template": "arcface_112x112",
        "height": 112,
        "width": 112,
        "scale": 1 / 127.5,
        "offset": 127.5,
        "mirror": "sum",
    }
    metadata = {
        "description": f"{name} of OpenSphere's PyTorch library, converted.",
        "weights_licence": _LICENCE,
        "terms": _TERMS,
    }
    return Converted(model, config, metadata, left_out)


def _depth(arrays: Arrays, kind: str, path: str) -> int:
    """By the blocks of the four stages; SFNet's first is the strided convolution."""
    found = {
        tuple(map(int, m.groups())) for n in arrays if (m := re.match(r"layer(\d+)\.(\d+)\.", n))
    }
    counts = tuple(sum(stage == s for s, _ in found) for stage in (1, 2, 3, 4))
    known = BLOCKS if kind == "iresnet" else {d: tuple(u + 1 for u in UNITS[d]) for d in UNITS}
    for depth, blocks in known.items():
        if counts == blocks:
            return depth
    raise DataError(
        f"{path} is not {_NETWORK}: {', '.join(map(str, counts))} blocks in its stages are those "
        f"of no {kind} (depths {', '.join(map(str, known))})."
    )


def _add_first(arrays: Arrays, depth: int, network: str | None, path: str) -> bool:
    """Whether a residual unit's sum comes before its last ReLU."""
    if "layer1.0.conv.weight" in arrays:
        return False
    if "features.weight" in arrays:
        return True
    if network is None and any(UNITS[depth]):
        raise DataError(
            f"{path} fits two networks of OpenSphere that compute different things: sfnet{depth} "
            f"(the sum, then ReLU) and sfnet{depth}_deprecated (ReLU, then the sum). The `type` of "
            "the backbone in the config.yml beside it says which; pass it, as in "
            f"`--network sfnet{depth}_deprecated`."
        )
    return not (network or "").endswith("_deprecated")


def _sfnet_names(depth: int, arrays: Arrays) -> dict[str, str]:
    first = "conv" if "layer1.0.conv.weight" in arrays else "conv1"
    names = {"embedding": "fc", "embedding_bn": "features"}
    for stage, units in enumerate(UNITS[depth], 1):
        names[f"stage{stage}_conv"] = f"layer{stage}.0.{first}"
        names[f"stage{stage}_conv_bn"] = f"layer{stage}.0.bn1"
        for unit in range(1, units + 1):
            for half in (1, 2):
                name = f"stage{stage}_unit{unit}_conv{half}"
                names[name] = f"layer{stage}.{unit}.conv{half}"
                names[f"{name}_bn"] = f"layer{stage}.{unit}.bn{half}"
    return names


def _iresnet_names(depth: int) -> dict[str, str]:
    names = {
        "stem_conv": "conv1",
        "stem_bn": "bn1",
        "stem_prelu": "prelu",
        "head_bn": "bn2",
        "embedding": "fc",
        "embedding_bn": "features",
    }
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        for block in range(blocks):
            ours, theirs = f"stage{stage}_block{block + 1}_", f"layer{stage}.{block}."
            for part in ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3"):
                names[f"{ours}{part}"] = f"{theirs}{part}"
            names[f"{ours}shortcut"] = f"{theirs}downsample.0"
            names[f"{ours}shortcut_bn"] = f"{theirs}downsample.1"
    return names
