"""Hyperspherical face recognition in Keras 3: heads, backbones, presets, protocols, exports.

Importing this package loads neither Keras nor TensorFlow; each name loads what it needs when
it is first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherekeras import (
        backbones,
        converters,
        data,
        evaluation,
        export,
        layers,
        losses,
        margins,
        optimizers,
        presets,
        search,
    )
    from spherekeras.embedder import FaceEmbedder, load_preset
    from spherekeras.errors import NoFaceError, SphereKerasError
    from spherekeras.presets import list_presets
    from spherekeras.sequential import Sequential

__version__ = "0.1.0"

__all__ = [
    "FaceEmbedder",
    "NoFaceError",
    "Sequential",
    "SphereKerasError",
    "__version__",
    "backbones",
    "converters",
    "data",
    "evaluation",
    "export",
    "layers",
    "list_presets",
    "load_preset",
    "losses",
    "margins",
    "optimizers",
    "presets",
    "search",
]

_HOMES = {
    "FaceEmbedder": "embedder",
    "NoFaceError": "errors",
    "Sequential": "sequential",
    "SphereKerasError": "errors",
    "list_presets": "presets",
    "load_preset": "embedder",
}


def __getattr__(name: str) -> Any:
    try:
        if name in _HOMES:
            return getattr(importlib.import_module(f"spherekeras.{_HOMES[name]}"), name)
        if name in __all__:
            return importlib.import_module(f"spherekeras.{name}")
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
        raise ModuleNotFoundError(
            f"`spherekeras.{name}` needs Keras, which is not installed. Run `pip install "
            "'spherekeras[tensorflow]'`.",
            name="keras",
        ) from None
    raise AttributeError(f"module 'spherekeras' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


if "keras" in sys.modules:  # so that `keras.models.load_model` finds the project's classes
    for _name in ("backbones", "optimizers", "sequential"):
        importlib.import_module(f"spherekeras.{_name}")
