"""clcarwin's port of SphereFace-20 to PyTorch."""

import dataclasses
import os

from spherekeras.converters.channels_first import Converted
from spherekeras.converters.release_names import release_network
from spherekeras.converters.state_dict import read_state_dict

_LICENCE = "unknown: see the source (github.com/clcarwin/sphereface_pytorch)"
_TERMS = (
    "Trained on CASIA-WebFace, whose agreement allows research only. The source's code states no "
    "licence for the weights."
)


def convert_clcarwin(path: str | os.PathLike[str]) -> Converted:
    """Turns the weights of clcarwin's `sphere20a` into a `SphereFaceNet`.

    A SphereFace-20 with a bias in every convolution, trained on CASIA-WebFace; its author gives
    99.22 % on Labeled Faces in the Wild, without a mirrored crop. The classifier `fc6` is left
    out.

    Args:
        path: `sphere20a_20171020.pth`, unpacked from the repository's .7z file, or one that its
            `train.py` wrote.

    Raises:
        DataError: see `read_state_dict`; or the weights are not those of this network.

    Example::

        converted = convert_clcarwin("sphere20a_20171020.pth")
        embeddings = converted.model.predict((crops[..., ::-1] - 127.5) / 128)

    Source: github.com/clcarwin/sphereface_pytorch (net_sphere.py, lfw_eval.py).
    """
    arrays, left_out = read_state_dict(path)
    converted = release_network(arrays, "clcarwin's sphere20a", str(path))
    depth = converted.config["arguments"]["depth"]
    metadata = {
        "description": f"SphereFace-{depth} in the form of clcarwin's PyTorch port, converted.",
        "weights_licence": _LICENCE,
        "terms": _TERMS,
    }
    return dataclasses.replace(
        converted, metadata=metadata, left_out=(*left_out, *converted.left_out)
    )
