"""Cosines to all classes, and the one logit a row that a margin changes: the cost of a head.

A head must not cost much more than a dense layer, and what costs is passing over the
`(batch, units)` logits and the `(dim, units)` kernel once more. On the TensorFlow backend, which
runs each operation by itself, the gradient is therefore written out here: what belongs to the
labels' classes is set in the one entry a row, the gradient of the kernel's norm is taken from
products that are there anyway, and what passes over a kernel or the logits does so once. JAX and
torch fuse or share these passes themselves; there the plain form is differentiated as it stands.
Both are the same function.
"""

from typing import Any

import keras
from keras import ops

from spherekeras.losses.labels import entries, positions
from spherekeras.one_pass import one_pass

Tensor = Any
_SMALL = 1e-4  # a shorter vector has no direction worth a gradient


def norm_of(x: Tensor, axis: int) -> Tensor:
    """The length of rows or columns, the axis kept; at least 1e-4."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=axis, keepdims=True), _SMALL**2))


def with_rows(rows: Tensor, value: Tensor, otherwise: Tensor) -> Tensor:
    """A number that was computed from `rows`, or another where there are none.

    The last batch of an epoch may leave one of several replicas without a row, and the mean of
    nothing is NaN, which a state would keep for good.
    """
    return ops.where(ops.sum(ops.ones_like(rows)) > 0, value, otherwise)


def own_entries(matrix: Tensor, labels: Tensor) -> Tensor:
    """The entry of each row at its label, `(batch, 1)`."""
    return ops.take_along_axis(matrix, labels[:, None], axis=1)


def normalized_product(
    rows: Tensor, kernel: Tensor, labels: Tensor, norm_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Returns `rows·W_j/‖W_j‖` for all classes, and once more for each row's own.

    Args:
        rows: `(batch, dim)`.
        kernel: W, `(dim, units)`.
        labels: int32 `(batch,)` in `[0, units)`.
        norm_gradient: False holds ‖W_j‖ constant in the gradient.

    Returns:
        `(batch, units)` and `(batch, 1)`. The second alone carries the gradient of a row's product
        with its own class; what flows to that entry of the first is not looked at.
    """
    if keras.backend.backend() != "tensorflow":
        norm = norm_of(kernel, axis=0)
        products = ops.matmul(rows, kernel) / (norm if norm_gradient else ops.stop_gradient(norm))
        return products, own_entries(products, labels)

    @ops.custom_gradient
    def product(rows: Tensor, kernel: Tensor) -> Any:
        square = _squares(kernel)
        inverse = ops.rsqrt(ops.maximum(square, _SMALL**2))
        products = ops.matmul(rows, kernel) * inverse

        def gradient(upstream: Tensor, upstream_own: Tensor) -> tuple[Tensor, Tensor]:
            scaled, along = _spread(upstream, upstream_own, labels, products, inverse)
            by_rows = ops.transpose(ops.matmul(kernel, ops.transpose(scaled)))
            by_kernel = ops.matmul(ops.transpose(rows), scaled)
            if norm_gradient:
                along = ops.where(square > _SMALL**2, along * inverse, 0.0)
                by_kernel = _without(by_kernel, kernel, along)
            return by_rows, by_kernel

        own = entries(products, labels)[:, None]
        return (products, own), gradient

    # A reshape reads the variable outside: a custom gradient may not depend on one it closes over.
    return product(rows, ops.reshape(kernel, (kernel.shape[0], -1)))


def without_own(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the logits, with no gradient by the entry of each row at its label."""
    if keras.backend.backend() != "tensorflow":
        return logits  # `replace_own` sees to it

    @ops.custom_gradient
    def same(logits: Tensor) -> Any:
        def gradient(upstream: Tensor) -> Tensor:
            nothing = ops.zeros_like(upstream[:, 0])
            return ops.scatter_update(upstream, positions(labels), nothing)

        return logits, gradient

    return same(logits)


def replace_own(logits: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    """Returns the logits with `own` `(batch, 1)` at each row's label.

    The logits must take no gradient at those entries, as those of `normalized_product` and
    `without_own` do: on TensorFlow, to spare a pass, it flows there as to all others.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.where(labels[:, None] == ops.arange(logits.shape[1]), own, logits)

    @ops.custom_gradient
    def replace(logits: Tensor, own: Tensor) -> Any:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return upstream, entries(upstream, labels)[:, None]

        return ops.scatter_update(logits, positions(labels), own[:, 0]), gradient

    return replace(logits, own)


def _squares_in_bands(kernel: Tensor) -> Tensor:
    """As `_squares`; a large kernel in bands, whose memory is used again."""
    dim, columns = kernel.shape
    rows = dim if columns is None else max(1, 2**23 // columns)
    bands = [kernel] if rows >= dim else ops.split(kernel, list(range(rows, dim, rows)), axis=0)
    return sum(ops.sum(ops.square(band), axis=0) for band in bands)


@one_pass(otherwise=_squares_in_bands)
def _squares(kernel: Tensor) -> Tensor:
    """The squared length of each column."""
    return _sum_of_rows(ops.square(kernel))


def _sum_of_rows(matrix: Tensor) -> Tensor:
    """The sum of all rows.

    Taken 16 by 16 where their number is known: the compiler makes one pass of so many; of more it
    makes several and writes what is to be summed to memory.
    """
    rows = matrix.shape[0]
    if rows is None:
        return ops.sum(matrix, axis=0)
    return sum(ops.sum(matrix[at : at + 16], axis=0) for at in range(0, rows, 16))


def _spread_by_operations(
    upstream: Tensor, own: Tensor, labels: Tensor, products: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """As `_spread`."""
    upstream = ops.scatter_update(upstream, positions(labels), own[:, 0])
    scaled = upstream * inverse
    return scaled, ops.sum(scaled * products, axis=0)


@one_pass(otherwise=_spread_by_operations)
def _spread(
    upstream: Tensor, own: Tensor, labels: Tensor, products: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient by `rows·W`, and its sum with the products over the batch.

    `own` `(batch, 1)` is the gradient by each row's product with its own class.
    """
    mine = labels[:, None] == ops.arange(ops.shape(upstream)[1], dtype=labels.dtype)
    scaled = ops.where(mine, own, upstream) * inverse
    return scaled, _sum_of_rows(scaled * products)


@one_pass()
def _without(gradient: Tensor, kernel: Tensor, along: Tensor) -> Tensor:
    """The gradient without its part along each column."""
    return gradient - kernel * along
