"""Records to batches: what a training step sees, as a pure function of seed and step.

Order and variation follow from (seed, step) alone, so a run that is resumed at step n sees what
an uninterrupted run sees from step n on, on any number of cores, fed by `tf.data` or, where there
is no TensorFlow, by a `keras.utils.PyDataset`. Pixels stay uint8: the network's first layer scales
them, on its own device.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from spherekeras.data.augmentation import DRAWS, Augmentation, augment
from spherekeras.data.records import Records, family
from spherekeras.errors import DataError


def split(
    records: Records,
    min_images: int = 1,
    max_images: int = 0,
    validation: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits records by identity into training and validation positions.

    No identity is in both; identities that share a family prefix (`<family>_MID<member>`, as
    in Families In the Wild) stay on one side. Which families are held out follows from their
    names alone: every seed is judged by the same people, and what a larger fraction holds out
    holds all that a smaller one does.

    Args:
        records: the crops.
        min_images: identities with fewer crops are left out of training.
        max_images: of an identity with more crops only so many, chosen by `seed`, are trained
            on; 0 for all.
        validation: fraction of the families held out, about: each by its own name.
        seed: chooses the crops where `max_images` limits them.

    Returns:
        Positions for training and for validation, each sorted.

    Raises:
        DataError: fewer than two identities are left to train on.
    """
    families = np.array([family(identity) for identity in records.identities])
    unique, member = np.unique(families, return_inverse=True)
    digests = [hashlib.sha256(str(name).encode()).hexdigest() for name in unique]
    held = np.array([int(digest[:16], 16) < validation * 2**64 for digest in digests])
    counts = np.bincount(records.labels, minlength=len(records.identities))
    held_out = held[member][records.labels]
    train = np.flatnonzero(~held_out & (counts[records.labels] >= min_images))
    if max_images:
        train = train[np.random.default_rng([seed, 5]).permutation(len(train))]
        train = train[np.argsort(records.labels[train], kind="stable")]
        ours = records.labels[train]
        train = np.sort(train[np.arange(len(ours)) - np.searchsorted(ours, ours) < max_images])
    if len(np.unique(records.labels[train])) < 2:
        raise DataError(
            f"Fewer than 2 identities with at least {min_images} crops are left to train on, of "
            f"{len(records.identities)} in {records.folder}. Lower `min_images` or `validation`."
        )
    return train, np.flatnonzero(held_out)


def centre(crops: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the middle of crops, (n, *size, 3)."""
    top, left = (crops.shape[1] - size[0]) // 2, (crops.shape[2] - size[1]) // 2
    return np.ascontiguousarray(crops[:, top : top + size[0], left : left + size[1]])


class Batches:
    """The batch of any step.

    Every epoch goes through all positions once in a new order; the last, incomplete batch of
    an epoch is dropped. Labels are numbered from 0 over the identities of `positions`.

    Args:
        records: the crops.
        positions: which of them.
        batch_size: the global batch.
        seed: of order and variation.
        size: (height, width) of the crops for the network; cut from the centre.
        augmentation: how crops are varied.
        targets: what to give in place of labels, float32 `(positions, dim)`, a row a position.
        onlooker: from varied crops of the records' size to what to give in place of the targets.

    Raises:
        DataError: fewer positions than one batch, or crops smaller than `size`.
    """

    def __init__(
        self,
        records: Records,
        positions: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        size: tuple[int, int],
        augmentation: Augmentation,
        targets: np.ndarray | None = None,
        onlooker: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if len(positions) < batch_size:
            raise DataError(
                f"{len(positions)} crops do not fill one batch of {batch_size}. Set `batch_size` "
                f"to at most {len(positions)}."
            )
        if records.height < size[0] or records.width < size[1]:
            raise DataError(
                f"The crops of {records.folder} are {records.height}x{records.width}; the network "
                f"takes {size[0]}x{size[1]}. Align with a template that shows as much."
            )
        self.records = records
        self.positions = positions
        self.batch_size = batch_size
        self.seed = seed
        self.size = size
        self.augmentation = augmentation
        self.onlooker = onlooker
        labels = np.unique(records.labels[positions], return_inverse=True)[1].astype(np.int32)
        self.wanted = labels if targets is None else targets
        self._order = functools.lru_cache(2)(self._shuffled)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Returns the crops, uint8 `(n, height, width, 3)`, and labels or targets of a step.

        Args:
            step: from 0.
            part: which of the parts, from 0.
            parts: equal ones that the global batch is cut into.
        """
        epoch, number = divmod(int(step), len(self.positions) // self.batch_size)
        size = self.batch_size // parts
        rows = slice(part * size, (part + 1) * size)
        chosen = self._order(epoch)[number * self.batch_size :][rows]
        random = np.random.default_rng([self.seed, 3, int(step)])
        draws = random.random((self.batch_size, DRAWS))[rows]
        whole = (self.records.height, self.records.width)
        shown = whole if self.onlooker else self.size
        images = np.empty((size, *shown, 3), np.uint8)
        for place, position in enumerate(self.positions[chosen]):
            crop = self.records.crop(position)
            images[place] = augment(crop, shown, self.augmentation, draws[place])
        if self.onlooker is None:
            return images, self.wanted[chosen]
        return centre(images, self.size), self.onlooker(images)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.positions))


def dataset(
    batches: Batches, start: int, stop: int, accumulation: int = 1, strategy: Any = None
) -> Any:
    """Returns the batches of steps `start` to `stop` as a `tf.data.Dataset`.

    Args:
        batches: of the run.
        start: the first step.
        stop: the step after the last.
        accumulation: equal parts that each batch is cut into, one after the other.
        strategy: a `tf.distribute.Strategy`; over several replicas the data are distributed: every
            process decodes the parts of its own replicas and no others.
    """
    import tensorflow as tf

    replicas = strategy.num_replicas_in_sync if strategy else 1
    parts = replicas * accumulation
    size = batches.batch_size // parts

    def feed(local: int, first: int) -> Any:
        def load(number: Any) -> tuple[Any, Any]:
            step, part = start + number // local, first + number % local
            images, wanted = tf.numpy_function(
                functools.partial(batches.batch, parts=parts),
                [step, part],
                [tf.uint8, batches.wanted.dtype],
                stateful=False,
            )
            images.set_shape([size, *batches.size, 3])
            wanted.set_shape([size, *batches.wanted.shape[1:]])
            return images, wanted

        data = tf.data.Dataset.range((stop - start) * local)
        return data.map(load, num_parallel_calls=os.cpu_count()).prefetch(tf.data.AUTOTUNE)

    def own(context: Any) -> Any:
        local = replicas // context.num_input_pipelines
        return feed(local, context.input_pipeline_id * local)

    return (
        feed(accumulation, 0) if replicas == 1 else strategy.distribute_datasets_from_function(own)
    )


def py_dataset(batches: Batches, start: int, accumulation: int = 1) -> Any:
    """Returns the batches from step `start` on, on one processor, as a `keras.utils.PyDataset`.

    For the backends that train without TensorFlow. Threads read ahead: decoding and variation
    happen outside Python's lock. It has no end: one that has begins anew after every epoch of
    `fit`, however many batches that took.
    """
    import keras

    class Steps(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            step, part = divmod(index, accumulation)
            return batches.batch(start + step, part, accumulation)

    return Steps(workers=os.cpu_count() or 1, max_queue_size=8)
