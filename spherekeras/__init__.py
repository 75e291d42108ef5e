"""Hyperspherical face recognition in Keras 3: heads, backbones, presets, protocols, exports.

Importing this package loads neither Keras nor TensorFlow; each name loads what it needs when
it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SUBMODULES = ("backbones", "data", "evaluation", "export", "layers", "margins", "presets")
_NAMES = {
    "FaceEmbedder": "spherekeras.embedder",
    "NoFaceError": "spherekeras.errors",
    "Sequential": "spherekeras.sequential",
    "SphereKerasError": "spherekeras.errors",
    "list_presets": "spherekeras.presets",
    "load_preset": "spherekeras.embedder",
}

__all__ = sorted((*_SUBMODULES, *_NAMES, "__version__"))

if TYPE_CHECKING:
    from spherekeras import backbones, data, evaluation, export, layers, margins, presets
    from spherekeras.embedder import FaceEmbedder, load_preset
    from spherekeras.errors import NoFaceError, SphereKerasError
    from spherekeras.presets import list_presets
    from spherekeras.sequential import Sequential


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"spherekeras.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'spherekeras' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
