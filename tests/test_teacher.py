"""A teacher's embeddings for crops, and the training that imitates them."""

import csv
import dataclasses
import pathlib
import shutil
import threading
from typing import Any

import cv2
import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras import teacher
from spherekeras.data.alignment import TEMPLATES, similarity_transform, warp
from spherekeras.data.augmentation import Augmentation
from spherekeras.data.drawn_faces import drawn_crops, write_drawn_crops
from spherekeras.data.pipeline import Batches
from spherekeras.data.records import Records, pack
from spherekeras.errors import DataError, RecipeError, TrainingError
from spherekeras.presets import PresetConfig
from spherekeras.recipe import load_recipe
from spherekeras.training import train

RECIPE = """
[data]
validation = 0.61
[backbone]
depth = 4
embedding_dim = 8
[teacher]
preset = "{preset}"
[optimizer]
name = "AdamW"
learning_rate = 1e-3
weight_decay = 1e-2
[training]
steps = 12
batch_size = 8
checkpoint_steps = 6
"""


def _preset(folder: pathlib.Path, width: int = 96) -> pathlib.Path:
    shape = [112, width, 3]
    template = {96: "sphereface_112x96", 112: "arcface_112x112"}[width]
    arguments = {"depth": 4, "embedding_dim": 8, "input_shape": shape}
    config = PresetConfig("SphereFaceNet", arguments, template, 112, width, 1 / 128, 127.5)
    keras.utils.set_random_seed(sum(folder.name.encode()))
    backbone = sk.backbones.SphereFaceNet(depth=4, embedding_dim=8, input_shape=tuple(shape))
    return sk.FaceEmbedder(backbone, config).save_preset(folder)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _preset(tmp_path_factory.mktemp("teacher") / "t")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_drawn_crops(tmp_path_factory.mktemp("crops"), range(8), 4)


@pytest.fixture(scope="module")
def records(crops: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    return pack(crops, tmp_path_factory.mktemp("records"))


def test_embeddings_are_the_presets_with_the_mirror_image(
    preset: pathlib.Path, records: Records, tmp_path: pathlib.Path
) -> None:
    positions = np.array([5, 0, 17])
    targets = teacher.embeddings_of(sk.load_preset(preset), records, positions, tmp_path)
    faces = sk.load_preset(preset)
    pictures = records.crops(positions)
    wanted = faces.embed_crops(pictures, normalize=False)
    wanted = wanted + faces.embed_crops(pictures[:, :, ::-1], normalize=False)
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, wanted, atol=1e-5)


def test_a_teacher_of_another_template_sees_the_crops_turned_into_it(
    records: Records, tmp_path: pathlib.Path
) -> None:
    preset = _preset(tmp_path / "wide", 112)
    targets = teacher.embeddings_of(
        sk.load_preset(preset), records, np.arange(4), tmp_path / "blocks"
    )
    edges = np.pad(records.crops(np.arange(4)), ((0, 0), (0, 0), (8, 8), (0, 0)), mode="edge")
    wanted = sk.load_preset(preset).embed_crops(edges, mirror="sum")
    np.testing.assert_allclose(targets, wanted, atol=1e-5)
    own, other = (np.array(TEMPLATES[n].landmarks) for n in ("sphereface_112x96", "dlib_150x150"))
    turn = similarity_transform(own, other)
    assert warp(records.crop(0), turn, 150, 150).shape == (150, 150, 3)


def test_what_all_faces_share_is_taken_off() -> None:
    told = np.array([[3.0, 4.0], [3.0, 0.0], [3.0, -4.0]], np.float32)
    centred = teacher.centred(told, told.mean(axis=0))
    np.testing.assert_allclose(centred, [[0, 1], [0, 0], [0, -1]], atol=1e-6)


def test_an_onlooker_sees_the_crops_as_they_were_varied(
    records: Records, tmp_path: pathlib.Path
) -> None:
    """A teacher of a wider crop: its input is the varied picture, not the imitator's cut."""
    faces = sk.load_preset(_preset(tmp_path / "wide", 112))
    mean = np.linspace(-0.2, 0.2, 8)
    look = teacher.onlooker(faces, records, mean, tmp_path / "run")
    plan = Augmentation(shift=3.0, turn=5.0, grey=0.5)
    common = {"batch_size": 6, "seed": 1, "augmentation": plan}
    targets = np.zeros((32, 8), np.float32)
    batches = Batches(
        records, np.arange(32), size=(112, 80), targets=targets, onlooker=look, **common
    )
    images, wanted = batches.batch(2)
    varied = Batches(records, np.arange(32), size=(112, 96), **common).batch(2)[0]
    np.testing.assert_array_equal(images, varied[:, :, 8:88])
    edges = np.pad(varied, ((0, 0), (0, 0), (8, 8), (0, 0)), mode="edge")
    said = faces.embed_crops(edges, mirror="none") - mean
    said = said / np.linalg.norm(said, axis=1, keepdims=True)
    assert wanted.dtype == np.float32
    assert (said * wanted).sum(axis=1).min() > 0.999  # dynamic range, less a mean
    threads = [threading.Thread(target=batches.batch, args=(step,)) for step in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(batches.batch(2)[1], wanted)


def test_an_onlooker_of_a_teacher_that_joins_mirror_images_gives_what_is_imitated(
    preset: pathlib.Path, records: Records, tmp_path: pathlib.Path
) -> None:
    faces = sk.load_preset(preset)
    config = dataclasses.replace(faces.config, mirror="concat")
    joined = sk.load_preset(
        sk.FaceEmbedder(faces.backbone, config).save_preset(tmp_path / "joined")
    )
    positions, mean = np.arange(5), np.linspace(-0.1, 0.1, 8)
    look = teacher.onlooker(joined, records, mean, tmp_path / "run")
    wanted = teacher.embeddings_of(joined, records, positions, tmp_path / "known")
    wanted = teacher.centred(wanted, mean)
    assert (look(records.crops(positions)) * wanted).sum(axis=1).min() > 0.999


def test_work_that_was_cut_off_goes_on(
    preset: pathlib.Path, records: Records, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(teacher, "_BLOCK", 8)
    whole = teacher.embeddings_of(sk.load_preset(preset), records, np.arange(20), tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    np.testing.assert_array_equal(
        teacher.embeddings_of(sk.load_preset(preset), records, np.arange(20), tmp_path), whole
    )
    assert sorted(tmp_path.iterdir()) == files
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_another_teachers_blocks_are_never_taken(
    preset: pathlib.Path, records: Records, tmp_path: pathlib.Path
) -> None:
    first = teacher.embeddings_of(sk.load_preset(preset), records, np.arange(8), tmp_path)
    second = teacher.embeddings_of(
        sk.load_preset(_preset(tmp_path / "x")), records, np.arange(8), tmp_path
    )
    assert np.abs(first - second).max() > 0.01


def test_crops_of_no_template_are_refused(preset: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for person in "ab":
        (tmp_path / "crops" / person).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "crops" / person / "1.png"), np.zeros((64, 64, 3), np.uint8))
    odd = pack(tmp_path / "crops", tmp_path / "records")
    with pytest.raises(DataError, match=r"No template is 64x64, the size of the crops of .*Align "):
        teacher.embeddings_of(sk.load_preset(preset), odd, np.arange(2), tmp_path / "blocks")


@pytest.mark.parametrize("varied", ["false", "true"])
def test_a_network_that_imitates_comes_closer_and_is_published(
    preset: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path, varied: str
) -> None:
    text = RECIPE.format(preset=preset)
    text = text.replace("[optimizer]", f"varied = {varied}\n[augmentation]\nshift = 2\n[optimizer]")
    (tmp_path / "r.toml").write_text(text)
    folder = train(tmp_path / "r.toml", crops, tmp_path / "run", verbose=0)
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[1] < losses[0] - 0.02  # minus the mean cosine
    assert sk.load_preset(folder).embed(drawn_crops([1], 1)[0]).shape == (1, 8)


def test_a_run_goes_on_with_its_own_teacher_alone(
    preset: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    own = pathlib.Path(shutil.copytree(preset, tmp_path / "teacher"))
    text = RECIPE.format(preset=own).replace("steps = 12", "steps = 6")
    (tmp_path / "r.toml").write_text(text)
    folder = train(tmp_path / "r.toml", crops, tmp_path / "run", verbose=0)
    assert train(tmp_path / "r.toml", crops, tmp_path / "run", verbose=0) == folder
    shutil.rmtree(own)
    shutil.copytree(_preset(tmp_path / "another"), own)
    with pytest.raises(TrainingError, match=r"holds a run with another teacher.sha256. Give a new"):
        train(tmp_path / "r.toml", crops, tmp_path / "run", verbose=0)


def test_an_imitator_starts_around_what_the_targets_share(
    preset: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A teacher that keeps its mean, of which a random one has much: it is met from step 0."""
    start = _preset(tmp_path / "start")
    text = RECIPE.format(preset=preset).replace("steps = 12", "steps = 1")
    text = text.replace("checkpoint_steps = 6", "checkpoint_steps = 1").replace("1e-3", "1e-9")
    text = text.replace("[teacher]", f'start = "{start}"\n[teacher]\nvaried = true')
    losses = []
    for common in ("0.0", "0.9"):
        (tmp_path / "r.toml").write_text(text.replace("varied", f"common = {common}\nvaried"))
        train(tmp_path / "r.toml", crops, tmp_path / common, verbose=0)
        with open(tmp_path / common / "log.csv", newline="") as file:
            losses.append(float(next(csv.DictReader(file))["loss"]))
    assert losses[0] > -0.2 and losses[1] < -0.5  # two random networks agree in nothing else


def test_slips_are_told(preset: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = RECIPE.format(preset=preset)
    (tmp_path / "r.toml").write_text(text + '[head]\nname = "CosFace"\n')
    with pytest.raises(RecipeError, match=r"\[head\].*or a `\[teacher\]`.*Received: both"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "w.toml").write_text(text.replace("embedding_dim = 8", "embedding_dim = 16"))
    with pytest.raises(RecipeError, match=r"have 8 dimensions, the backbone's 16\. Set backbone"):
        train(tmp_path / "w.toml", crops, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()  # told before any work
