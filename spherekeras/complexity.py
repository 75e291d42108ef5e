"""What a network costs on any machine: its multiplications."""

import math
from typing import Any


def multiplications(model: Any) -> int:
    """Returns the multiply-add operations of one forward pass: 2-D convolutions and dense layers.

    Args:
        model: a `keras.Model` with one input of known size; models inside it are counted too.
            Dense layers are taken to see one vector.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> multiplications(model)  # 6 * 6 places, 3 * 3 * 3 inputs, 4 outputs
    3888
    """
    total = 0
    for layer in model.layers:
        if hasattr(layer, "layers"):
            total += multiplications(layer)
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            kernel = getattr(layer, name, None)
            if kernel is not None and not hasattr(layer, "layers"):
                shape = layer.output.shape[1:-1] if len(kernel.shape) == 4 else ()
                total += math.prod(shape) * math.prod(kernel.shape)
    return total
