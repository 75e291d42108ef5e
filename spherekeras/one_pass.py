"""Functions that pass over memory once, on the TensorFlow backend of one processor.

TensorFlow runs each operation by itself, and one that does little with much memory costs as much
as reading it. Compiled together by XLA several are one pass. That serves a single processor: a GPU
has bandwidth to spare and XLA may not be there, and TensorFlow refuses XLA over several replicas
on one processor. JAX and torch compile whole steps of their own accord or not at all.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras


def on_one_processor() -> bool:
    """Whether what is being traced runs in a graph of TensorFlow, on one processor and no GPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # which alone compiles a part of a graph

    alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    return alone and not tf.executing_eagerly() and not tf.config.list_physical_devices("GPU")


def one_pass(otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Decorates a function of tensors, in `keras.ops`, that XLA is to compile where it can.

    Args:
        otherwise: the same function, called where nothing is compiled; None for the function
            itself.

    Example:

    >>> import numpy as np
    >>> @one_pass()
    ... def square_plus_one(x):
    ...     return x * x + 1
    >>> float(square_plus_one(np.float32(2)))
    5.0
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        plain = function if otherwise is None else otherwise

        @functools.wraps(function)
        def call(*tensors: Any) -> Any:
            return _compiled(function)(*tensors) if on_one_processor() else plain(*tensors)

        return call

    return decorate


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(function, jit_compile=True)
    return compiled
