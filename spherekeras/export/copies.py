"""Copies of a functional model, layer by layer."""

import contextlib
from collections.abc import Callable, Iterator
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

    with _uncompiled(model):  # Keras would compile the copy, with a loss that it may not know
        copy = keras.models.clone_model(model, clone_function=made, recursive=True)
    for old, new in pairs:
        if isinstance(old, keras.Layer) and type(new) is type(old):
            new.set_weights(old.get_weights())
            if hasattr(new, "finalize_state"):  # `Normalization` computes with what it derives
                new.finalize_state()
    return copy


@contextlib.contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Inside, neither the model nor one within it counts as compiled."""
    import keras

    def models(whole: Any) -> Iterator[Any]:
        yield whole
        for layer in whole.layers:
            if isinstance(layer, keras.Model):
                yield from models(layer)

    compiled = [each for each in {id(m): m for m in models(model)}.values() if each.compiled]
    try:
        for each in compiled:
            each.compiled = False
        yield
    finally:
        for each in compiled:
            each.compiled = True


def again(layer: Any, **changes: Any) -> Any:
    """Returns a layer of the same class and settings, save for changes of these."""
    return type(layer).from_config({**layer.get_config(), **changes})
