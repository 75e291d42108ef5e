"""Records to batches: what a training step sees, as a pure function of seed and step.

Order and augmentation follow from (seed, step) alone, so a run that is resumed at step n sees
what an uninterrupted run sees from step n on, on any number of cores.
"""

import dataclasses
from typing import Any

import numpy as np

from spherekeras.data.records import Records
from spherekeras.errors import DataError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a crop is varied in training.

    Attributes:
        mirror: mirror half of the crops, left to right.
        shift: largest shift, in pixels, each way.
        zoom: largest change of scale, as a fraction.
        brightness: largest change of brightness, as a fraction of the full range.
        contrast: largest change of contrast, as a fraction.
        grey: fraction of the crops turned grey.
        erase: fraction of the crops in which a random rectangle (a tenth to a half of each side) is
            painted mid-grey; it may lie partly outside, so borders are covered often.
    """

    mirror: bool = True
    shift: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    grey: float = 0.0
    erase: float = 0.0


def split(
    records: Records, min_images: int = 1, validation: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits records by identity into training and validation positions.

    No identity is in both; identities that share a family prefix (`<family>_MID<member>`, as
    in Families In the Wild) stay on one side.

    Args:
        records: the crops.
        min_images: identities with fewer crops are left out of training.
        validation: fraction of the families held out.
        seed: chooses them.

    Returns:
        Positions for training and for validation, each sorted.

    Raises:
        DataError: fewer than two identities are left to train on.
    """
    families = np.array([identity.split("_MID")[0] for identity in records.identities])
    unique, member = np.unique(families, return_inverse=True)
    held = np.zeros(len(unique), bool)
    order = np.random.default_rng([seed, 1]).permutation(len(unique))
    held[order[: round(validation * len(unique))]] = True
    counts = np.bincount(records.labels, minlength=len(records.identities))
    held_out = held[member][records.labels]
    train = np.flatnonzero(~held_out & (counts[records.labels] >= min_images))
    if len(np.unique(records.labels[train])) < 2:
        raise DataError(
            f"Fewer than 2 identities with at least {min_images} crops are left to train on, of "
            f"{len(records.identities)} in {records.folder}. Lower `min_images` or `validation`."
        )
    return train, np.flatnonzero(held_out)


def batches(
    records: Records,
    positions: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    size: tuple[int, int],
    scale: float,
    offset: float,
    augmentation: Augmentation,
) -> Any:
    """Returns a `tf.data.Dataset` of the batches of steps `start` to `stop`.

    Every epoch goes through all positions once in a new order; the last, incomplete batch of
    an epoch is dropped. Labels are numbered from 0 over the identities of `positions`.

    Args:
        records: the crops.
        positions: which of them.
        batch_size: the global batch.
        seed: of order and augmentation.
        start: first step, counted from 0.
        stop: step to stop before.
        size: (height, width) of the crops for the network; cut from the centre.
        scale: pixels become `(pixel - offset) * scale`.
        offset: see `scale`.
        augmentation: how crops are varied.

    Returns:
        Dataset of (images float32 `(batch, height, width, 3)`, labels int32 `(batch,)`).

    Raises:
        DataError: fewer positions than one batch, or crops smaller than `size`.
    """
    import tensorflow as tf

    per_epoch = len(positions) // batch_size
    if not per_epoch:
        raise DataError(
            f"{len(positions)} crops do not fill one batch of {batch_size}. Set `batch_size` to "
            f"at most {len(positions)}."
        )
    if records.height < size[0] or records.width < size[1]:
        raise DataError(
            f"The crops of {records.folder} are {records.height}x{records.width}; the network "
            f"takes {size[0]}x{size[1]}. Align with a template at least that large."
        )
    labels = np.unique(records.labels[positions], return_inverse=True)[1].astype(np.int32)

    def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epoch, batch = divmod(int(step), per_epoch)
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(positions))
        chosen = order[batch * batch_size : (batch + 1) * batch_size]
        return records.crops(positions[chosen]), labels[chosen]

    def load(step: Any) -> tuple[Any, ...]:
        crops, batch_labels = tf.numpy_function(read, [step], [tf.uint8, tf.int32])
        crops.set_shape([batch_size, records.height, records.width, 3])
        batch_labels.set_shape([batch_size])
        return crops, batch_labels, step * batch_size + tf.range(batch_size, dtype=tf.int64)

    def prepare(crop: Any, label: Any, number: Any) -> tuple[Any, Any]:
        seeds = tf.stack([tf.cast(seed, tf.int64), number])
        image = _augment(tf, tf.cast(crop, tf.float32), size, augmentation, seeds)
        return (image - offset) * scale, label

    data = tf.data.Dataset.range(start, stop)
    data = data.map(load, num_parallel_calls=2).unbatch()
    data = data.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _augment(
    tf: Any, image: Any, size: tuple[int, int], augmentation: Augmentation, seed: Any
) -> Any:
    """One varied crop, float32 0..255, cut to `size`."""
    height, width = int(image.shape[0]), int(image.shape[1])
    random = tf.random.stateless_uniform((12,), seed)
    signed = 2.0 * random - 1.0
    top, left = (height - size[0]) / 2, (width - size[1]) / 2
    if augmentation.shift or augmentation.zoom:
        zoom = 1.0 + augmentation.zoom * signed[0]
        y = top + augmentation.shift * signed[1] + (1.0 - zoom) * (size[0] - 1) / 2
        x = left + augmentation.shift * signed[2] + (1.0 - zoom) * (size[1] - 1) / 2
        box = [
            y / (height - 1),
            x / (width - 1),
            (y + zoom * (size[0] - 1)) / (height - 1),
            (x + zoom * (size[1] - 1)) / (width - 1),
        ]
        image = tf.image.crop_and_resize(
            image[None], tf.stack(box)[None], [0], size, extrapolation_value=127.5
        )[0]
    else:
        image = image[int(top) : int(top) + size[0], int(left) : int(left) + size[1]]
    if augmentation.mirror:
        image = tf.cond(random[3] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    if augmentation.grey:
        grey = tf.reduce_sum(image * [0.299, 0.587, 0.114], axis=2, keepdims=True)
        image = tf.where(random[4] < augmentation.grey, grey, image)
    if augmentation.contrast or augmentation.brightness:
        mean = tf.reduce_mean(image)
        image = mean + (image - mean) * (1.0 + augmentation.contrast * signed[5])
        image = image + 255.0 * augmentation.brightness * signed[6]
        image = tf.clip_by_value(image, 0.0, 255.0)
    if augmentation.erase:
        side = tf.constant(size, tf.float32) * (0.1 + 0.4 * random[7:9])
        corner = tf.constant(size, tf.float32) * random[9:11] - side / 2
        y = tf.range(size[0], dtype=tf.float32)[:, None, None]
        x = tf.range(size[1], dtype=tf.float32)[None, :, None]
        inside = (y >= corner[0]) & (y < corner[0] + side[0])
        inside &= (x >= corner[1]) & (x < corner[1] + side[1])
        image = tf.where(inside & (random[11] < augmentation.erase), 127.5, image)
    return image
