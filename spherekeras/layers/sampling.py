"""A sample of the classes for one training step (Partial FC)."""

from typing import Any

import keras
from keras import ops

Tensor = Any
HIDDEN = -1e30  # a logit that takes no part in a softmax


def run_of(units: int) -> int:
    """How many neighbouring classes are drawn together: 16, or as many as divide `units`.

    A run of 16 float32 is what a processor fetches at once; one class by itself costs as much.
    """
    return next(run for run in (16, 8, 4, 2, 1) if units % run == 0)


def shards_of(variable: keras.Variable) -> int:
    """Returns over how many devices the last axis of a variable is cut; 1 where it is not.

    Example:

    >>> shards_of(keras.Variable([[1.0, 2.0]]))
    1
    """
    distribution = keras.distribution.distribution()
    layout = distribution and distribution.get_variable_layout(variable)
    if not layout or layout.axes[-1] is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(layout.axes[-1])]


def sample_classes(
    labels: Tensor, units: int, count: int, seed: Any, shards: int = 1
) -> tuple[Tensor, Tensor]:
    """Draws classes for a batch, in runs of neighbours, spread over all classes.

    The class axis, a ring begun at a random run, is cut into as many stretches as runs are drawn
    and one run is drawn from each, so none is drawn twice, each class has the same chance, and the
    order that memory likes is kept. A drawn class that is also a label of the batch is hidden, and
    of a label that several rows share each row sees one copy.

    Where the classes lie on several devices each shard is a ring of its own, from which equally
    many are drawn, so that no device needs another's class weights for them.

    Args:
        labels: int32 `(batch,)`.
        units: number of classes.
        count: classes to draw, at most `units`; rounded to whole runs, as many in each shard.
        seed: of `keras.random`.
        shards: equal parts of the class axis.

    Returns:
        Runs drawn, int32 `(shards, runs)`: run r of a shard holds the `run_of(units // shards)`
        classes from `r * run_of(units // shards)` on, counted from the shard's first. And a mask
        `(batch, shards, columns)`, True where a column does not count for a row. The columns of a
        shard are first the rows' own classes, as `own_columns` shares them out, then its runs.

    Source: Partial FC, arXiv 2203.15565, section 3.2.
    """
    mine = units // shards
    size = run_of(mine)
    places, count = mine // size, max(1, round(count / shards / size))
    base, longer = places // count, places % count
    at = ops.arange(count, dtype="int32")
    width = base + ops.cast(at < longer, "int32")
    random = keras.random.uniform((shards, count + 1), dtype="float32", seed=seed)
    inside = ops.cast(ops.floor(random[:, 1:] * ops.cast(width, "float32")), "int32")
    drawn = at * base + ops.minimum(at, longer) + ops.minimum(inside, width - 1)
    turn = ops.cast(random[:, :1] * places, "int32")  # so that unequal stretches fall on all alike
    same = labels[:, None] == labels[None, :]
    batch = ops.shape(labels)[0]
    rows = ops.arange(batch)
    itself = rows[:, None] == rows[None, :]
    earlier = ops.logical_and(same, rows[:, None] < rows[None, :])
    again = ops.any(earlier, axis=0)  # this column repeats an earlier one
    twice = ops.logical_and(ops.logical_or(same, again[None, :]), ops.logical_not(itself))
    if missing := _missing(batch, shards):
        twice = ops.pad(twice, ((0, 0), (0, missing)), constant_values=True)
    shard, within = labels // mine, labels % mine
    sought = ops.mod(within // size - ops.take(turn[:, 0], shard), places)
    stretch = ops.where(
        sought < longer * (base + 1), sought // (base + 1), (sought - longer) // base
    )
    place = shard * count + stretch
    hit = ops.cast(ops.take(ops.reshape(drawn, (-1,)), place) == sought, "float32")
    column = place * size + within % size
    hidden = ops.scatter(column[:, None], hit, (shards * count * size,)) > 0
    hidden = ops.reshape(hidden, (1, shards, count * size))
    hidden = ops.broadcast_to(hidden, (batch, shards, count * size))
    twice = ops.reshape(twice, (batch, shards, -1))
    return ops.mod(drawn + turn, places), ops.concatenate([twice, hidden], axis=2)


def weights_of(kernel: Tensor, labels: Tensor, runs: Tensor, units: int) -> Tensor:
    """Returns the kernel's columns of the labels and of the runs drawn, shard by shard.

    Args:
        kernel: `(dim, columns)`; where `columns` is a multiple of `units`, a class has several.
        labels: int32 `(batch,)`.
        runs: `(shards, runs)` as `sample_classes` returns them.
        units: number of classes.
    """
    dim, each, shards = kernel.shape[0], kernel.shape[1] // units, runs.shape[0]
    width = run_of(units // shards) * each
    if missing := _missing(ops.shape(labels)[0], shards):
        labels = ops.pad(labels, ((0, missing),))
    own = ops.reshape(labels[:, None] * each + ops.arange(each, dtype="int32"), (-1,))

    def parts(kernel: Tensor) -> Tensor:
        theirs = ops.reshape(kernel, (dim, shards, -1, width))
        if shards == 1:
            drawn = ops.take(theirs, runs[0], axis=2)
        else:
            drawn = ops.take_along_axis(theirs, runs[None, :, :, None], axis=2)
        ours = ops.reshape(ops.take(kernel, own, axis=1), (dim, shards, -1))
        together = ops.concatenate([ours, ops.reshape(drawn, (dim, shards, -1))], axis=2)
        return ops.reshape(together, (dim, -1))

    if keras.backend.backend() != "tensorflow":
        return parts(kernel)

    @ops.custom_gradient
    def picked(kernel: Tensor) -> Any:
        return parts(kernel), lambda upstream: _spread(upstream, kernel, labels, runs[0], each)

    return picked(ops.reshape(kernel, (dim, -1)))


def _missing(batch: Any, shards: int) -> int:
    """How many columns a batch lacks to be shared out evenly over several shards."""
    return 0 if shards == 1 else -batch % shards


def _spread(upstream: Tensor, kernel: Tensor, labels: Tensor, runs: Tensor, each: int) -> Tensor:
    """The gradient by the whole kernel, in one pass: every run of it is copied from its source.

    TensorFlow's own gradient of a choice of columns turns the whole kernel over twice.
    """
    dim, columns = kernel.shape
    size = run_of(columns // each)
    width, batch, drawn = size * each, ops.shape(labels)[0], ops.shape(runs)[0]
    theirs = ops.reshape(upstream[:, batch * each :], (dim, -1, width))
    # A label's column as a run that is zero elsewhere; labels of one run are summed.
    inside = ops.one_hot(labels % size, size, dtype=upstream.dtype)
    ours = ops.reshape(upstream[:, : batch * each], (dim, -1, 1, each)) * inside[None, :, :, None]
    mine = labels // size
    together = ops.cast(mine[:, None] == mine[None, :], upstream.dtype)
    ours = ops.einsum("dbw,bc->dcw", ops.reshape(ours, (dim, -1, width)), together)
    # Where each run comes from: a run drawn, a label's run, or the zeros behind both.
    source = ops.full((columns // width,), drawn + batch, dtype="int32")
    source = ops.scatter_update(source, runs[:, None], ops.arange(drawn, dtype="int32"))
    zeros = ops.zeros((dim, 1, width), upstream.dtype)
    from_drawn = ops.minimum(ops.take(source, mine), drawn)
    ours = ours + ops.take(ops.concatenate([theirs, zeros], axis=1), from_drawn, axis=1)
    at = drawn + ops.arange(batch, dtype="int32")
    source = ops.scatter_update(source, mine[:, None], at)
    whole = ops.take(ops.concatenate([theirs, ours, zeros], axis=1), source, axis=1)
    return ops.reshape(whole, (dim, columns))
