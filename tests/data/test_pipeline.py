"""Batches: a pure function of seed and step, every crop once an epoch, labels in place."""

import dataclasses
import hashlib
import pathlib
import shutil
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from spherekeras.data.augmentation import Augmentation
from spherekeras.data.images import read_image
from spherekeras.data.pipeline import Batches, dataset, py_dataset, split
from spherekeras.data.records import Records, pack
from spherekeras.errors import DataError

PEOPLE, PICTURES = 6, 4
STRONG = Augmentation(True, 3, 0.1, 10, 0.2, 0.3, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5)
NONE = Augmentation(mirror=False)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    root = tmp_path_factory.mktemp("pipeline")
    for person in range(PEOPLE):
        folder = root / "crops" / f"fiw_F{person // 2:04d}_MID{person}"
        folder.mkdir(parents=True)
        for number in range(PICTURES):
            picture = np.full((40, 32, 3), 40 * person, np.uint8)
            picture[:, :16, 0] = 20 + 10 * number
            cv2.imwrite(str(folder / f"{number}.png"), picture[..., ::-1])
    return pack(root / "crops", root / "records")


def take(records: Records, start: int, stop: int, **options: Any) -> list[tuple[Any, Any]]:
    arguments: dict[str, Any] = {
        "batch_size": 4,
        "seed": 0,
        "size": (36, 28),
        "augmentation": STRONG,
        **options,
    }
    positions = arguments.pop("positions", np.arange(len(records)))
    data = dataset(Batches(records, positions, **arguments), start, stop)
    return list(data.as_numpy_iterator())


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(records: Records) -> None:
    whole, rest = take(records, 0, 14), take(records, 8, 14)
    assert len(whole) == 14
    for (a, b), (c, d) in zip(whole[8:], rest, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_another_seed_or_step_varies_order_and_pictures(records: Records) -> None:
    a, b = take(records, 0, 6), take(records, 0, 6, seed=1)
    assert [y.tolist() for _, y in a] != [y.tolist() for _, y in b]
    epochs = take(records, 0, 12)
    assert [y.tolist() for _, y in epochs[:6]] != [y.tolist() for _, y in epochs[6:]]


def test_an_epoch_is_every_crop_once_with_its_label(records: Records) -> None:
    seen = []
    for images, labels in take(records, 0, 6, augmentation=NONE):
        for image, label in zip(images, labels, strict=True):
            assert image[0, -1, 1] == 40 * label
            seen.append((int(label), int(image[0, 0, 0])))
    assert sorted(seen) == [(p, 20 + 10 * n) for p in range(PEOPLE) for n in range(PICTURES)]


def test_without_augmentation_the_centre_is_cut_to_the_pixel(records: Records) -> None:
    images, _ = take(records, 0, 1, batch_size=24, augmentation=NONE)[0]
    order = np.random.default_rng([0, 2, 0]).permutation(24)
    wanted = records.crops(order)[:, 2:38, 2:30]
    np.testing.assert_array_equal(images, wanted)


def test_training_reads_pictures_as_use_does(tmp_path: pathlib.Path) -> None:
    for person in ("a", "b"):
        (tmp_path / "crops" / person).mkdir(parents=True)
        picture = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "crops" / person / "1.jpg"), picture)
        alpha = np.dstack([picture, np.full((40, 32), 90, np.uint8)])
        cv2.imwrite(str(tmp_path / "crops" / person / "2.png"), alpha)
    records = pack(tmp_path / "crops", tmp_path / "records")
    images, _ = take(records, 0, 1, size=(40, 32), augmentation=NONE)[0]
    order = np.random.default_rng([0, 2, 0]).permutation(4)
    pictures = [read_image(data) for data in records.read(order)]
    np.testing.assert_array_equal(images, pictures)


def test_mirror_turns_about_half(records: Records) -> None:
    seen = take(records, 0, 60, augmentation=Augmentation(mirror=True))
    # Red and green are equal in the right half; mirrored, they are equal in the left half, and
    # where they are equal in both (20 + 10·n = 40·label) nothing can be told.
    corners = [
        (image[0, 0, 0] != image[0, 0, 1], image[0, -1, 0] != image[0, -1, 1])
        for images, _ in seen
        for image in images
    ]
    turned = [right for left, right in corners if left != right]
    assert len(turned) > 150 and 0.35 < np.mean(turned) < 0.65


def test_strong_augmentation_keeps_shape_and_type(records: Records) -> None:
    for images, _ in take(records, 0, 12):
        assert images.shape == (4, 36, 28, 3) and images.dtype == np.uint8


def test_erase_paints_mid_grey_in_about_the_asked_fraction(records: Records) -> None:
    many = take(records, 0, 60, augmentation=Augmentation(mirror=False, erase=0.5))
    erased = [(image == 127).all(axis=-1).any() for images, _ in many for image in images]
    assert 0.3 < np.mean(erased) < 0.6


def test_split_keeps_families_together_and_identities_apart(records: Records) -> None:
    train, validation = split(records, validation=0.05)
    assert len(np.intersect1d(train, validation)) == 0
    assert len(train) + len(validation) == len(records)
    families = [name.split("_MID")[0] for name in records.identities]
    sides = [{families[label] for label in records.labels[p]} for p in (train, validation)]
    assert not sides[0] & sides[1] and len(sides[1]) == 1
    np.testing.assert_array_equal(train, split(records, validation=0.05, seed=5)[0])


def test_a_larger_part_holds_out_all_that_a_smaller_one_does(records: Records) -> None:
    one, two = (split(records, validation=part)[1] for part in (0.05, 0.2))
    assert set(one) < set(two)
    names = sorted({name.split("_MID")[0] for name in records.identities})
    share = {n: int(hashlib.sha256(n.encode()).hexdigest()[:16], 16) / 2**64 for n in names}
    held = {records.identities[label].split("_MID")[0] for label in records.labels[one]}
    assert held == {name for name in names if share[name] < 0.05} and len(held) == 1


def test_the_same_people_are_held_out_wherever_they_were_unpacked(
    records: Records, tmp_path: pathlib.Path
) -> None:
    for path in (records.folder.parent / "crops").iterdir():
        shutil.copytree(path, tmp_path / "crops" / "faces" / path.name)
    for number in range(5):
        (tmp_path / "crops" / "more" / f"other_{number}").mkdir(parents=True)
        picture = np.full((40, 32, 3), number, np.uint8)
        cv2.imwrite(str(tmp_path / "crops" / "more" / f"other_{number}" / "0.png"), picture)
    others = pack(tmp_path / "crops", tmp_path / "records")
    assert others.identities[0].startswith("faces/")
    held = [
        {r.identities[label].split("/")[-1] for label in r.labels[split(r, validation=0.5)[1]]}
        for r in (records, others)
    ]
    assert held[0] and held[0] == {name for name in held[1] if name.startswith("fiw")}


def test_families_in_folders_of_their_own_stay_together(records: Records) -> None:
    names = [f"F{family:04d}/MID{member}" for family in range(30) for member in (1, 2)]
    apart = dataclasses.replace(
        records, identities=names, labels=np.repeat(np.arange(60, dtype=np.int32), 2)
    )
    for validation in (0.1, 0.5):
        sides = [
            {names[label].split("/")[0] for label in apart.labels[positions]}
            for positions in split(apart, validation=validation)
        ]
        assert not sides[0] & sides[1]
        assert 0.2 < len(sides[1]) / (30 * validation) < 2


def test_labels_are_renumbered_over_what_is_trained_on(records: Records) -> None:
    positions = np.flatnonzero(records.labels >= 3)
    labels = np.concatenate([y for _, y in take(records, 0, 3, positions=positions)])
    assert set(labels.tolist()) == {0, 1, 2}


def test_what_cannot_be_trained_on_is_named(records: Records) -> None:
    with pytest.raises(DataError, match=r"24 crops do not fill one batch of 25. Set `batch_size`"):
        take(records, 0, 1, batch_size=25)
    with pytest.raises(DataError, match=r"are 40x32; the network takes 112x96"):
        take(records, 0, 1, size=(112, 96))
    with pytest.raises(DataError, match=r"Fewer than 2 identities with at least 5 crops"):
        split(records, min_images=5)


def test_more_pictures_than_wanted_are_left_out_at_random(records: Records) -> None:
    train, _ = split(records, max_images=2)
    assert np.bincount(records.labels[train]).tolist() == [2] * PEOPLE
    assert train.tolist() == sorted(set(train.tolist()))
    np.testing.assert_array_equal(train, split(records, max_images=2)[0])
    assert train.tolist() != split(records, max_images=2, seed=1)[0].tolist()
    assert len(split(records, max_images=9)[0]) == len(records)


def test_targets_come_with_their_crops(records: Records) -> None:
    targets = np.arange(len(records), dtype=np.float32)[:, None] * [[1.0, -1.0]]
    targets = targets.astype(np.float32)
    for images, wanted in take(records, 0, 6, targets=targets, augmentation=NONE):
        crops = records.crops(wanted[:, 0].astype(int))[:, 2:38, 2:30]
        np.testing.assert_array_equal(images, crops)
        np.testing.assert_array_equal(wanted[:, 1], -wanted[:, 0])


def test_without_tensorflow_the_batches_are_the_same(records: Records) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "seed": 3, "size": (36, 28)}
    batches = Batches(records, np.arange(24), augmentation=STRONG, **arguments)
    by_hand = [batches.batch(step) for step in range(5, 12)]
    feeds = {
        "tf.data": list(dataset(batches, 5, 12).as_numpy_iterator()),
        "PyDataset": [py_dataset(batches, 5)[index] for index in range(7)],
    }
    for name, feed in feeds.items():
        for (a, b), (c, d) in zip(feed, by_hand, strict=True):
            np.testing.assert_array_equal(a, c, err_msg=name)
            np.testing.assert_array_equal(b, d, err_msg=name)


def test_fit_takes_the_py_dataset_in_order_and_goes_on_over_epochs(records: Records) -> None:
    arguments: dict[str, Any] = {"batch_size": 4, "seed": 3, "size": (36, 28)}
    batches = Batches(records, np.arange(24), augmentation=STRONG, **arguments)
    seen: list[np.ndarray] = []

    class Probe(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> dict[str, Any]:
            seen.append(data[0].numpy())
            return {"loss": keras.ops.zeros(())}

    model = Probe()
    model.compile(run_eagerly=True)
    feed = py_dataset(batches, 2)
    feed.workers = 2  # where there is one core, too; and more batches than a queue holds
    model.fit(feed, shuffle=False, epochs=3, steps_per_epoch=20, verbose=0)
    assert len(seen) == 60
    for step, images in enumerate(seen, 2):
        np.testing.assert_array_equal(images, batches.batch(step)[0])


def test_folder_of_records_is_not_touched(records: Records) -> None:
    before = sorted(p.stat().st_mtime_ns for p in pathlib.Path(records.folder).iterdir())
    take(records, 0, 2)
    assert before == sorted(p.stat().st_mtime_ns for p in pathlib.Path(records.folder).iterdir())
