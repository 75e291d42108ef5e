"""Copies of a functional model, layer by layer."""

from collections.abc import Callable
from typing import Any


def copied(model: Any, of_layer: Callable[[Any], Any]) -> Any:
    """Returns a copy of a model with weights of its own; models inside it are copied as well.

    Args:
        model: a functional `keras.Model`.
        of_layer: makes the new layer for an old one; one of the same class takes over its weights.
    """
    import keras

    pairs = []

    def made(layer: Any) -> Any:
        pairs.append((layer, of_layer(layer)))
        return pairs[-1][1]

    copy = keras.models.clone_model(model, clone_function=made, recursive=True)
    for old, new in pairs:
        if isinstance(old, keras.Layer) and type(new) is type(old):
            new.set_weights(old.get_weights())
            if hasattr(new, "finalize_state"):  # `Normalization` computes with what it derives
                new.finalize_state()
    return copy


def again(layer: Any, **changes: Any) -> Any:
    """Returns a layer of the same class and settings, save for changes of these."""
    return type(layer).from_config({**layer.get_config(), **changes})
