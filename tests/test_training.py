"""The road from crops to a preset, killed and resumed, and stopped where it must stop."""

import csv
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from spherekeras import presets
from spherekeras.backbones import MobileFaceNet, SphereFaceNet
from spherekeras.compiling import averaged, compile_model, learning_rate
from spherekeras.data.drawn_faces import drawn_crops, write_drawn_crops
from spherekeras.data.records import open_records
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, PresetError, RecipeError, TrainingError
from spherekeras.recipe import Backbone, load_recipe
from spherekeras.training import (
    build_model,
    check_source,
    check_start,
    imprint,
    start_from,
    train,
    whole_people,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = """
[data]
validation = 0.61
[backbone]
depth = 4
embedding_dim = 16
[head]
annealing = [10.0, 0.12, 1.0, 5.0]
[optimizer]
learning_rate = 0.02
warmup = 2
[training]
steps = 12
batch_size = 8
checkpoint_steps = 3
[augmentation]
shift = 2
"""
PROGRAM = """
import sys
from spherekeras.training import train
train(*sys.argv[1:], verbose=0)
"""


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_drawn_crops(tmp_path_factory.mktemp("crops"), range(8), 6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, crops: pathlib.Path) -> pathlib.Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    (out / "mine.toml").write_text(RECIPE)
    train(out / "mine.toml", crops, out / "run", verbose=0)
    return out


def checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path / "checkpoint.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def step_of(arrays: dict[str, np.ndarray]) -> int:
    return int(next(value for name, value in arrays.items() if name.endswith(".iteration")))


def weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def test_a_run_leaves_a_preset_and_its_logs(whole: pathlib.Path) -> None:
    faces = FaceEmbedder.from_preset(whole / "run" / "preset")
    assert faces.check_golden() <= 1e-4
    assert faces.metadata["trained_on"] == {
        "crops": 30,
        "identities": 5,
        "steps": 12,
        "batch_size": 8,
        "validation": 0.61,
        "records": open_records(whole / "run" / "records").checksum,
    }
    assert faces.metadata["measured"] == presets.stamp(whole / "run" / "preset")
    held_out = faces.metadata["held_out"]
    assert (held_out["crops"], held_out["people"], held_out["same"]) == (18, 3, 45)
    assert (
        "18 crops of people held out from training"
        in (whole / "run" / "preset" / "README.md").read_text()
    )
    assert faces.metadata["thresholds"][0]["far"] == 0.1
    assert (whole / "run" / "preset" / "recipe.toml").read_text() == RECIPE
    with open(whole / "run" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        assert {"loss", "lambda", "target_angle", "val_auc", "steps_per_second"} <= set(row)
    wanted = [max(5.0, 10 / (1 + 0.12 * step)) for step in (3, 6, 9, 12)]
    assert [float(row["lambda"]) for row in rows] == pytest.approx(wanted, rel=1e-5)
    assert list((whole / "run" / "tensorboard").rglob("events.*"))


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    command = [sys.executable, "-c", PROGRAM, "mine.toml", str(crops), "run"]
    kept = tmp_path / "run" / "checkpoint.npz"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not kept.exists() and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    step = step_of(checkpoint(tmp_path / "run"))
    assert 3 <= step < 12, f"killed at step {step}, which shows nothing"
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stderr=subprocess.DEVNULL)
    one, other = checkpoint(whole / "run"), checkpoint(tmp_path / "run")
    assert len(one) == len(other)
    for (name, value), resumed in zip(one.items(), other.values(), strict=True):
        np.testing.assert_allclose(resumed, value, atol=1e-6, err_msg=name)
    stored = [p / "preset" / "model.weights.h5" for p in (whole / "run", tmp_path / "run")]
    for name, value in weights(stored[0]).items():
        np.testing.assert_allclose(weights(stored[1])[name], value, atol=1e-3, err_msg=name)


def test_a_folder_of_another_run_is_refused(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (whole / "other.toml").write_text(RECIPE.replace("0.02", "0.03"))
    with pytest.raises(TrainingError, match=r"holds a run with another recipe.toml. Give a new"):
        train(whole / "other.toml", crops, whole / "run", verbose=0)
    shutil.copytree(whole / "run" / "preset", tmp_path / "run" / "preset")
    shutil.copy(whole / "run" / "recipe.toml", tmp_path / "run")  # its checkpoints were deleted
    with pytest.raises(TrainingError, match=r"holds a run with another recipe.toml. Give a new"):
        train(whole / "other.toml", crops, tmp_path / "run", verbose=0)


def test_other_pictures_under_the_same_run_are_refused(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import cv2

    for person in ("a", "b"):
        (tmp_path / "crops" / person).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "crops" / person / "1.png"), np.zeros((112, 96, 3), np.uint8))
    with pytest.raises(TrainingError, match=r"was packed from other pictures than .*--out"):
        train(whole / "mine.toml", tmp_path / "crops", whole / "run", verbose=0)
    with pytest.raises(DataError, match="does not exist"):
        train(whole / "mine.toml", tmp_path / "none", whole / "run", verbose=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[head]", "[head]\nmargin = 0.5", "margin >= 1. Received: margin=0.5"),
        ("[head]", "[head]\nm1 = 1.0", "cannot be built: .*m1"),
        ("1.0, 5.0]", "1.0, 'x']", "cannot be built: .*four numbers.*'x'"),
        ("depth = 4", "depth = 5", "depths 4, 10, 20, 36, 62, 64. Received: depth=5"),
    ],
)
def test_a_head_or_backbone_that_cannot_be_built_is_told_before_any_work(
    tmp_path: pathlib.Path, old: str, new: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        train(tmp_path / "mine.toml", tmp_path / "nothing", tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "head",
    [
        "name = 'SphereFace2'",
        "name = 'CenterLoss'",
        "name = 'ArcFace'\nsampling = 0.5\nramp = [1, 2]",
        "name = 'SphereFaceR'\nversion = 'v2'",
    ],
)
def test_a_recipe_trains_with_any_head(
    crops: pathlib.Path, tmp_path: pathlib.Path, head: str
) -> None:
    recipe = RECIPE.replace("annealing = [10.0, 0.12, 1.0, 5.0]", head)
    recipe = recipe.replace("steps = 12", "steps = 3").replace("warmup = 2", "warmup = 1")
    (tmp_path / "mine.toml").write_text(recipe)
    folder = train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    assert FaceEmbedder.from_preset(folder).check_golden() <= 1e-4


def test_a_backbone_starts_from_a_preset(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    preset = whole / "run" / "preset"
    grown = SphereFaceNet(10, embedding_dim=16)
    before = {layer.name: layer.get_weights() for layer in grown.layers}
    start_from(grown, str(preset))
    given = FaceEmbedder.from_preset(preset).backbone
    for layer in given.layers:
        for ours, theirs in zip(
            grown.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    added = [layer.name for layer in grown.layers if "unit" in layer.name and layer.weights]
    assert added
    for name in added:
        np.testing.assert_array_equal(before[name][0], grown.get_layer(name).get_weights()[0])
    text = RECIPE.replace("depth = 4", f"depth = 4\nstart = '{preset}'")
    (tmp_path / "mine.toml").write_text(text.replace("0.02", "1e-9"))
    folder = train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    some = drawn_crops(range(8), 1)[0]

    def raw(preset: pathlib.Path) -> np.ndarray:
        return FaceEmbedder.from_preset(preset).embed_crops(some, normalize=False)

    shift = raw(folder) - raw(preset)  # it starts centred, and how faces differ stays
    np.testing.assert_allclose(shift, shift[:1].repeat(8, axis=0), atol=1e-3)
    assert np.linalg.norm(raw(folder).mean(axis=0)) < 0.5 * np.linalg.norm(raw(preset).mean(axis=0))
    again = tmp_path / "again.toml"
    again.write_text(text.replace(str(preset), str(folder)))
    last = train(again, crops, tmp_path / "last", verbose=0)
    trained = FaceEmbedder.from_preset(last).metadata["trained_on"]
    name = FaceEmbedder.from_preset(folder).metadata["name"]
    assert (trained["start"], trained["steps"], trained["steps_before"]) == (name, 12, 24)
    assert "| steps before | 24 |" in (last / "README.md").read_text()
    again.write_text(again.read_text().replace("depth = 4", "depth = 4\ncommon = 0.75"))
    shift = raw(train(again, crops, tmp_path / "common", verbose=0)) - raw(last)
    np.testing.assert_allclose(shift, shift[:1].repeat(8, axis=0), atol=2e-2)
    assert np.linalg.norm(shift[0]) > 0.1
    tuned = FaceEmbedder.from_preset(preset)
    tuned.backbone.weights[0].assign(1.5 * tuned.backbone.weights[0])
    again.write_text(text.replace(str(preset), str(tuned.save_preset(tmp_path / "tuned"))))
    last = train(again, crops, tmp_path / "from_tuned", verbose=0)
    assert "start_changed" in FaceEmbedder.from_preset(last).metadata["trained_on"]
    assert "| start changed | by what and on whose pictures" in (last / "README.md").read_text()


def test_a_start_that_was_taught_other_pixels_computes_what_it_did(tmp_path: pathlib.Path) -> None:
    config = presets.PresetConfig(
        *("SphereFaceNet", {"depth": 4, "embedding_dim": 16}, "sphereface_112x96", 112, 96),
        *(1 / 255, 127.5, "BGR"),
    )
    theirs = FaceEmbedder(presets.build_backbone(config), config)
    preset = str(theirs.save_preset(tmp_path / "bgr"))
    ours = SphereFaceNet(4, embedding_dim=16)
    start_from(ours, preset)
    some = drawn_crops(range(4), 1)[0]
    wanted = theirs.embed_crops(some, normalize=False)
    got = ours.predict((some.astype("float32") - 127.5) / 128, verbose=0)
    scale = np.linalg.norm(wanted, axis=1).max()
    kept = FaceEmbedder.from_preset(preset).embed_crops(some, normalize=False)
    np.testing.assert_allclose(got, kept, atol=1e-4 * scale)
    np.testing.assert_allclose(got, wanted, atol=2e-3 * scale)  # kept in float16
    config = dataclasses.replace(config, offset=0.0)
    FaceEmbedder(theirs.backbone, config).save_preset(tmp_path / "zero")
    with pytest.raises(RecipeError, match=r"zero' was taught pixels less 0; a recipe's have 127.5"):
        start_from(ours, str(tmp_path / "zero"))


def test_a_start_that_was_built_otherwise_is_refused(tmp_path: pathlib.Path) -> None:
    arguments = {"depth": 4, "embedding_dim": 16, "input_shape": [112, 96, 3], "add_first": False}
    config = presets.PresetConfig("SFNet", arguments, "sphereface_112x96", 112, 96, 1 / 128, 127.5)
    preset = FaceEmbedder(presets.build_backbone(config), config).save_preset(tmp_path / "p")
    text = RECIPE.replace("depth = 4", f"name = 'SFNet'\ndepth = 4\nstart = '{preset}'")
    (tmp_path / "r.toml").write_text(text.replace("validation = 0.61", "validation = 0.0"))
    with pytest.raises(
        RecipeError,
        match=r"add_first = False, this recipe with True. Set .* = \{ add_first = false",
    ):
        train(tmp_path / "r.toml", tmp_path / "none", tmp_path / "run", verbose=0)
    plan = Backbone("SFNet", 10, start=str(preset), arguments={"add_first": False})
    check_start(plan)
    check_start(dataclasses.replace(plan, name="SphereFaceNet", arguments={}))
    check_start(dataclasses.replace(plan, arguments={"add_first": True}))  # what is said is meant


def test_layers_that_do_not_fit_their_start_are_named(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = presets.PresetConfig(
        *("SphereFaceNet", {"depth": 10, "embedding_dim": 16}, "sphereface_112x96", 112, 96),
        *(1 / 128, 127.5),
    )
    preset = FaceEmbedder(presets.build_backbone(config), config).save_preset(tmp_path / "p")
    start_from(SphereFaceNet(10, embedding_dim=16), str(preset))
    assert "anew" not in caplog.text
    start_from(SphereFaceNet(10, embedding_dim=8), str(preset))
    assert "1 layers begin anew, for the weights of" in caplog.text
    assert caplog.text.rstrip().endswith("have other shapes there: embedding")


IN_ZOO = {folder.parent.name for folder in ROOT.glob("zoo/*/config.json")}
STARTS = [
    path
    for path in sorted(ROOT.glob("examples/recipes/*.toml"))
    if load_recipe(path).backbone.start in IN_ZOO
]


def test_some_shipped_recipes_start_from_the_zoo() -> None:
    assert {"mobile_asoftmax", "mobile_relu_distilled"} <= {path.stem for path in STARTS}


@pytest.mark.parametrize("path", STARTS, ids=lambda path: path.stem)
def test_a_shipped_recipe_may_start_from_the_zoo(path: pathlib.Path) -> None:
    plan = load_recipe(path)
    check_start(plan.backbone)
    check_source(plan, plan.backbone.start, "backbone.start")


def test_a_run_that_can_verify_nobody_says_so(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = write_drawn_crops(tmp_path / "crops", range(4), 2)
    text = RECIPE.replace("validation = 0.61", "validation = 0.0")
    (tmp_path / "r.toml").write_text(text.replace("steps = 12", "steps = 3"))
    folder = train(tmp_path / "r.toml", crops, tmp_path / "run", verbose=0)
    assert "thresholds" not in presets.read_metadata(folder)
    assert "No pair of crops can be verified: 0 crops of 0 people are held out, and" in caplog.text


def test_crops_of_another_template_are_refused(tmp_path: pathlib.Path) -> None:
    import cv2

    for person in ("a", "b"):
        (tmp_path / "crops" / person).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "crops" / person / "1.png"), np.zeros((150, 150, 3), np.uint8))
    (tmp_path / "r.toml").write_text(RECIPE)
    with pytest.raises(
        DataError,
        match=r"are 150x150; this network takes crops of 112x96 or 112x112 .*sphereface_112x96`",
    ):
        train(tmp_path / "r.toml", tmp_path / "crops", tmp_path / "run", verbose=0)


def test_a_start_that_has_seen_the_people_held_out_is_refused(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    preset = whole / "run" / "preset"
    text = RECIPE.replace("depth = 4", f"depth = 4\nstart = '{preset}'")
    (tmp_path / "mine.toml").write_text(text.replace("validation = 0.61", "validation = 0.7"))
    with pytest.raises(
        RecipeError,
        match=r"`data.validation` = 0.7 holds out people whom `backbone.start` = '.*preset' was "
        r"trained on: it held out 0.61. Set it to at most 0.61.",
    ):
        train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_the_average_of_the_weights_is_validated_and_published(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = RECIPE.replace("warmup = 2", "average = 0.5").replace("steps = 3", "steps = 12")
    (tmp_path / "mine.toml").write_text(text)
    plan = load_recipe(tmp_path / "mine.toml")
    model = build_model(plan, 3)
    compile_model(model, plan)
    images = np.random.default_rng(0).integers(0, 256, (8, 112, 96, 3), np.uint8)
    kernel = model.get_layer("head").kernel
    mean = steps = None
    for _ in range(4):
        model.train_on_batch(images, np.arange(8) % 3)
        steps = kernel.numpy()
        mean = steps if mean is None else (mean + steps) / 2
    with averaged(model):
        np.testing.assert_allclose(kernel.numpy(), mean, atol=1e-6)
    np.testing.assert_array_equal(kernel.numpy(), steps)
    assert np.abs(mean - steps).max() > 1e-5

    preset = train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    first = (preset / "model.weights.h5").read_bytes()
    again = train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)  # from its checkpoint
    assert (again / "model.weights.h5").read_bytes() == first
    published = next(v for v in weights(preset / "model.weights.h5").values() if v.ndim == 2)
    last = [v for v in checkpoint(tmp_path / "run").values() if v.shape == published.shape]
    differences = [float(np.abs(v - published).max()) for v in last]
    assert min(differences) < 1e-3  # the average, which the optimiser keeps
    assert len([d for d in differences if d > 2e-3]) >= 1  # the last step's


def test_a_head_is_imprinted_with_its_classes_means(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plan = load_recipe(whole / "mine.toml")
    model, records = build_model(plan, 8), open_records(whole / "run" / "records")
    lengths = np.linalg.norm(model.layers[-1].kernel.numpy(), axis=0)
    faces = FaceEmbedder(model.layers[1], FaceEmbedder.from_preset(whole / "run/preset").config)
    imprint(model.layers[-1], faces, records, np.arange(len(records.labels)))
    kernel = model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), lengths, rtol=1e-5)
    embeddings = faces.embed_crops(records.crops(np.arange(len(records.labels))))
    for label in range(8):
        mean = embeddings[records.labels == label].mean(axis=0)
        cosine = kernel[:, label] @ mean / (lengths[label] * np.linalg.norm(mean))
        assert cosine == pytest.approx(1.0, abs=1e-5)


def test_a_start_without_a_common_layer_is_refused(whole: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match=r"`backbone.start`: no layer of .* same family"):
        start_from(MobileFaceNet(), str(whole / "run" / "preset"))


def test_weights_that_are_not_finite_are_never_published(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = RECIPE.replace("0.02", "1e12").replace("warmup = 2", "clip = 1.0")
    recipe = recipe.replace("steps = 12", "steps = 1").replace("int_steps = 3", "int_steps = 1")
    (tmp_path / "mine.toml").write_text(recipe)
    with pytest.raises((TrainingError, PresetError), match=r"no longer finite|does not fit float"):
        train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "preset" / "SHA256SUMS").exists()


def test_a_damaged_checkpoint_is_named(
    whole: pathlib.Path, crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.npz").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint.npz is damaged \(File is not.*delete"):
        train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.replace("0.02", "1e9").replace("warmup = 2", ""))
    message = (
        r"no longer finite at step \d+ \(lambda .*Lower `optimizer.learning_rate`.* train with "
        "another `--out`: a run goes on with its own recipe alone. Last"
    )
    with pytest.raises(TrainingError, match=message):
        train(tmp_path / "mine.toml", crops, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "preset").exists()
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_mirrored_replicas_train_like_one_device(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = RECIPE.replace("steps = 12", "steps = 3", 1)  # rounding grows from step to step
    (tmp_path / "mine.toml").write_text(recipe)
    program = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from spherekeras.training import train
train("mine.toml", sys.argv[1], "one", strategy=tf.distribute.get_strategy(), verbose=0)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
train("mine.toml", sys.argv[1], "two", strategy=two, verbose=0)
"""
    subprocess.run(
        [sys.executable, "-c", program, str(crops)],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        stderr=subprocess.DEVNULL,
    )
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert len(one) == len(two) and step_of(two) == 3
    for (name, value), other in zip(one.items(), two.values(), strict=True):
        np.testing.assert_allclose(other, value, atol=1e-6, err_msg=name)


def test_people_are_taken_whole_and_at_random() -> None:
    labels = np.repeat(np.arange(40), 3)
    positions = np.arange(30, 120)
    taken = whole_people(labels, positions, 20)
    assert len(taken) == 18 and set(taken) <= set(positions)
    assert np.bincount(labels[taken])[labels[taken]].tolist() == [3] * 18
    assert len(np.unique(labels[taken])) == 6 and labels[taken].max() > 20
    np.testing.assert_array_equal(whole_people(labels, positions, 90), positions)
    for large in range(30):  # whoever is drawn first
        crowd = np.concatenate([labels[positions], np.full(25, large + 100)])
        taken = crowd[whole_people(crowd, np.arange(len(crowd)), 20)]
        assert len(taken) == 18 and taken.max() < 100


def test_learning_rate_falls_at_the_milestones() -> None:
    from spherekeras.recipe import Optimizer

    rate = learning_rate(Optimizer(learning_rate=0.1, warmup=4, milestones=(10, 20)), 30)
    got = [float(rate(step)) for step in (0, 3, 4, 9, 10, 19, 20, 29)]
    assert got == pytest.approx([0.02, 0.08, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    cosine = learning_rate(Optimizer(learning_rate=0.1, warmup=4), 24)
    assert [float(cosine(s)) for s in (0, 2, 4, 14, 24)] == pytest.approx(
        [0, 0.05, 0.1, 0.05, 0], abs=1e-6
    )
