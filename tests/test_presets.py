"""Preset folders: byte-identical, checked at every load, found by name or path."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

import spherekeras as sk
from spherekeras import presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError, PresetError
from spherekeras.evaluation import Calibration
from spherekeras.export import to_tflite
from spherekeras.presets import PresetConfig

CONFIG = PresetConfig(
    backbone="MobileFaceNet",
    arguments={"embedding_dim": 8, "input_shape": [112, 96, 3]},
    template="sphereface_112x96",
    height=112,
    width=96,
    scale=1 / 128,
    offset=127.5,
)
THRESHOLDS = [
    {"far": 0.1, "threshold": 0.2, "tar": 0.9, "data": "a test"},
    {"far": 0.01, "threshold": 0.5, "tar": 0.7, "data": "a test"},
]


@pytest.fixture(scope="module")
def faces() -> FaceEmbedder:
    return FaceEmbedder(presets.build_backbone(CONFIG), CONFIG, {"thresholds": THRESHOLDS})


@pytest.fixture(scope="module")
def saved(faces: FaceEmbedder, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return faces.save_preset(tmp_path_factory.mktemp("zoo") / "tiny", recipe="[data]\n")


@pytest.fixture
def preset(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "tiny"))


def test_a_preset_comes_back_as_it_was_saved(faces: FaceEmbedder, preset: pathlib.Path) -> None:
    again = FaceEmbedder.from_preset(preset)
    assert again.config == CONFIG and again.metadata["thresholds"] == THRESHOLDS
    assert again.check_golden() <= 1e-6
    crops = np.random.default_rng(1).integers(0, 256, (3, 112, 96, 3), np.uint8)
    cosines = np.sum(faces.embed(crops) * again.embed(crops), axis=1)
    assert cosines.min() > 0.99999  # weights are stored in float16
    for weight in again.backbone.get_weights():
        np.testing.assert_array_equal(weight, weight.astype(np.float16).astype(np.float32))


def test_a_card_reads_the_same_after_a_reload(faces: FaceEmbedder, tmp_path: pathlib.Path) -> None:
    known = {"trained_on": {"steps": 3, "crops": 2}, "thresholds": THRESHOLDS}
    first = faces.save_preset(tmp_path / "first", metadata={**known, "name": "first"})
    text = (first / "README.md").read_text()
    FaceEmbedder.from_preset(first).save_preset(first)
    assert (first / "README.md").read_text() == text


def test_two_saves_are_byte_identical(preset: pathlib.Path, tmp_path: pathlib.Path) -> None:
    faces = FaceEmbedder.from_preset(preset)
    for name in ("one", "two"):
        faces.save_preset(tmp_path / name, recipe="[data]\n")
    for file in (*presets.FILES, presets.SUMS):
        one = (tmp_path / "one" / file).read_bytes()
        assert one == (tmp_path / "two" / file).read_bytes() == (preset / file).read_bytes(), file


def test_changed_weights_do_not_pass_for_the_trained_ones(
    faces: FaceEmbedder, tmp_path: pathlib.Path
) -> None:
    known = {
        "name": "famous",
        "description": "trained well",
        "overlap": "none with LFW",
        "terms": "research only",
        "weights_licence": "non-commercial",
        "trained_on": {"steps": 3, "validation": 0.05},
        "thresholds": THRESHOLDS,
    }
    faces.save_preset(tmp_path / "famous", metadata=known, recipe="[data]\n")
    mine = FaceEmbedder.from_preset(tmp_path / "famous")
    wider = FaceEmbedder(mine.backbone, dataclasses.replace(mine.config, scale=0.01))
    wider.metadata, wider.folder = mine.metadata, mine.folder
    kept = FaceEmbedder.from_preset(wider.save_preset(tmp_path / "wider"))
    assert kept.metadata["trained_on"] == known["trained_on"]  # these very weights
    assert "thresholds" not in kept.metadata
    mine.backbone.weights[0].assign(1.5 * mine.backbone.weights[0])
    said, stamp = mine.stated()
    assert (said.get("name"), said["terms"], stamp) == (None, "research only", {})
    for name in ("tuned", "again"):
        folder = mine.save_preset(tmp_path / name)
        told = FaceEmbedder.from_preset(folder).metadata
        assert not told.keys() & {"description", "overlap", "trained_on", "thresholds"}
        assert (told["name"], told["weights_licence"]) == (name, "non-commercial")
        assert told["changed_from"]["trained_on"] == known["trained_on"]
        assert (folder / "recipe.toml").read_text() == ""
        page = (folder / "README.md").read_text()
        assert (
            f"These weights began as the preset {'famous' if name == 'tuned' else 'tuned'!r}"
            in page
        )
        assert "that preset's; the pictures used since add their own." in page
        assert "recipe.toml" not in page and page.startswith(f"# {name}\n")
        copy = FaceEmbedder.from_preset(folder).save_preset(tmp_path / "copy")
        assert (copy / presets.SUMS).read_bytes() == (folder / presets.SUMS).read_bytes()
        mine = FaceEmbedder.from_preset(folder)
        mine.backbone.weights[0].assign(1.5 * mine.backbone.weights[0])


def test_changed_weights_saved_in_place_stay_changed(
    faces: FaceEmbedder, tmp_path: pathlib.Path
) -> None:
    known = {"name": "famous", "overlap": "none with LFW", "thresholds": THRESHOLDS}
    folder = faces.save_preset(tmp_path / "famous", metadata=known, recipe="[data]\n")
    mine = FaceEmbedder.from_preset(folder)
    mine.backbone.weights[0].assign(1.5 * mine.backbone.weights[0])
    mine.save_preset(folder)
    sums = (folder / presets.SUMS).read_bytes()
    told, stamp = mine.stated()
    assert not told.keys() & {"overlap", "thresholds"} and stamp == presets.stamp(folder)
    mine.save_preset(folder)
    assert (folder / presets.SUMS).read_bytes() == sums
    mine.backbone.weights[0].assign(1.5 * mine.backbone.weights[0])
    assert "overlap" not in mine.stated()[0] and mine.stated()[1] == {}


def test_changed_weights_are_not_saved_where_a_download_would_replace_them(
    faces: FaceEmbedder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPHEREKERAS_CACHE", str(tmp_path))
    with pytest.raises(PresetError, match=r"famous is the place of a downloaded preset: .*folder"):
        faces.save_preset(tmp_path / "presets" / "famous")
    assert not (tmp_path / "presets").exists()
    (tmp_path / "presets" / "famous").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "presets" / "famous")
    with pytest.raises(PresetError, match="is the place of a downloaded preset"):
        faces.save_preset(".")


def test_a_compiled_backbone_has_the_same_weights(
    preset: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    faces = FaceEmbedder.from_preset(preset)
    faces.backbone.compile("sgd", "mse")
    folder = faces.save_preset(tmp_path / "compiled")
    for file in (*presets.FILES, presets.SUMS):
        assert (folder / file).read_bytes() == (preset / file).read_bytes(), file


@pytest.mark.parametrize("name", [*presets.FILES, presets.SUMS])
@pytest.mark.parametrize("place", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_a_flipped_byte_of_any_file_is_named(preset: pathlib.Path, name: str, place: float) -> None:
    path = preset / name
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(PresetError, match=name.replace(".", r"\.")):
        sk.load_preset(preset)


@pytest.mark.parametrize("name", [*presets.FILES, presets.SUMS])
def test_a_missing_file_is_named(preset: pathlib.Path, name: str) -> None:
    (preset / name).unlink()
    with pytest.raises(PresetError, match=name.replace(".", r"\.")):
        sk.load_preset(preset)


def resum(preset: pathlib.Path) -> None:
    lines = [f"{presets.sha256(preset / name)}  {name}\n" for name in presets.FILES]
    (preset / presets.SUMS).write_text("".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 2', "format this version cannot read"),
        ("MobileFaceNet", "os.system", r"config.json: .*`backbone` is one of .*MobileFaceNet"),
        ('"height"', '"tall"', "wrong key"),
        ('"channel_order": "RGB"', '"channel_order": "rgb"', "`channel_order` is RGB or BGR"),
        ('"mirror": "none"', '"mirror": "both"', "`mirror` is none, sum or concat"),
        ('"height": 112', '"height": 96', "contradicts itself: the crop is 96x96"),
        ('"offset": 127.5', '"offset": null', "`scale` and `offset` are finite numbers, `scal"),
        ('"offset": 127.5', '"offset": Infinity', "`scale` and `offset` are finite numbers, `sc"),
        ('"offset": 127.5', f'"offset": {10**400}', "`scale` and `offset` are finite numbers, `s"),
        ('"scale": 0.0078125', '"scale": NaN', "`scale` and `offset` are finite numbers, `scale` "),
        ('"scale": 0.0078125', '"scale": 0', "`scale` and `offset` are finite numbers, `scale` n"),
        ('"embedding_dim": 8', '"embedding_dim": -8', "does not build MobileFaceNet"),
        ('"embedding_dim": 8', '"dim": 8', "does not build MobileFaceNet"),
        ('"embedding_dim": 8', '"embedding_dim": 9', "does not fit MobileFaceNet"),
    ],
)
def test_a_config_of_something_else_is_named(
    preset: pathlib.Path, old: str, new: str, message: str
) -> None:
    text = (preset / "config.json").read_text()
    assert old in text
    (preset / "config.json").write_text(text.replace(old, new))
    resum(preset)
    with pytest.raises(PresetError, match=message):
        sk.load_preset(preset)


@pytest.fixture(scope="module")
def light(saved: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A preset that carries a TFLite file."""
    folder = pathlib.Path(shutil.copytree(saved, tmp_path_factory.mktemp("light") / "tiny"))
    to_tflite(folder, folder / presets.TFLITE, "float16")
    presets.write_preset(folder, {})
    return folder


def test_a_preset_runs_on_its_file(light: pathlib.Path) -> None:
    keras, file = (FaceEmbedder.from_preset(light, runtime=name) for name in ("keras", "litert"))
    assert file.check_golden() < 1e-5 and file.metadata == keras.metadata
    assert file.unit_parts and not keras.unit_parts
    crops = np.random.default_rng(1).integers(0, 256, (3, 112, 96, 3), np.uint8)
    np.testing.assert_allclose(file.embed(crops), keras.embed(crops), atol=1e-5)
    far = keras.verify(crops[0], crops[1])
    assert file.verify(crops[0], crops[1]).similarity == pytest.approx(far.similarity, abs=1e-5)


def test_a_preset_without_a_file_says_what_to_do(preset: pathlib.Path) -> None:
    with pytest.raises(
        PresetError, match=r"carries no model\.tflite\. Load it with runtime='keras"
    ):
        FaceEmbedder.from_preset(preset, runtime="litert")
    with pytest.raises(PresetError, match=r"`runtime` is 'keras' or 'litert'\. Received: 'tf'"):
        FaceEmbedder.from_preset(preset, runtime="tf")


def test_a_file_goes_with_its_weights_and_no_others(
    light: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    faces = FaceEmbedder.from_preset(light)
    same = faces.save_preset(tmp_path / "same")
    assert (same / presets.TFLITE).read_bytes() == (light / presets.TFLITE).read_bytes()
    presets.check_files(same)
    faces.backbone.set_weights([0.5 * w for w in faces.backbone.get_weights()])
    for folder in ("same", "changed"):
        faces.save_preset(tmp_path / folder)
        assert not (tmp_path / folder / presets.TFLITE).exists()
        presets.check_files(tmp_path / folder)
    shutil.copy(light / presets.TFLITE, tmp_path / "changed")
    with pytest.raises(
        PresetError,
        match=r"SHA256SUMS has no line for model\.tflite\. Delete that file; nothing was loaded\.$",
    ):
        FaceEmbedder.from_preset(tmp_path / "changed")
    presets.write_preset(tmp_path / "changed", {})
    with pytest.raises(PresetError, match=r"was made from other weights than .* holds"):
        FaceEmbedder.from_preset(tmp_path / "changed", runtime="litert")


def test_changed_weights_are_exported_without_what_was_measured(
    light: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    faces = FaceEmbedder.from_preset(light)
    faces.backbone.set_weights([0.5 * w for w in faces.backbone.get_weights()])
    to_tflite(faces, tmp_path / "a.tflite")
    exported = FaceEmbedder.from_tflite(tmp_path / "a.tflite")
    faces.save_preset(tmp_path / "b")
    to_tflite(FaceEmbedder.from_preset(tmp_path / "b"), tmp_path / "b.tflite")
    assert FaceEmbedder.from_tflite(tmp_path / "b.tflite").metadata["changed_from"]["name"]
    assert exported.backbone.note["preset"] == {} and "thresholds" not in exported.metadata


def test_other_thresholds_do_not_keep_the_file(light: pathlib.Path, tmp_path: pathlib.Path) -> None:
    faces = FaceEmbedder.from_preset(light)
    kept = faces.save_preset(tmp_path / "kept", metadata=faces.metadata | {"latency": {}})
    assert (kept / presets.TFLITE).is_file()
    metadata = faces.metadata | {"thresholds": THRESHOLDS[:1]}
    assert not (faces.save_preset(tmp_path / "a", metadata=metadata) / presets.TFLITE).exists()


def test_without_keras_a_preset_with_a_file_is_the_usual_one(
    light: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(light, tmp_path / "light")
    bare = FaceEmbedder.from_preset(light)
    bare.save_preset(tmp_path / "accurate")
    metrics = presets.to_json({"metrics": [{"name": "LFW view 2", "accuracy": 0.99}]})
    presets.write_preset(tmp_path / "accurate", {"metadata.json": metrics, presets.TFLITE: None})
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(tmp_path))
    assert presets.most_accurate(["accurate", "light"]) == "accurate"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert presets.most_accurate(["accurate", "light"]) == "light"
    assert presets.most_accurate(["accurate"]) == "accurate"


def test_a_flipped_byte_of_the_file_is_named(light: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(shutil.copytree(light, tmp_path / "tiny"))
    data = bytearray((folder / presets.TFLITE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / presets.TFLITE).write_bytes(data)
    for runtime in ("keras", "litert"):
        with pytest.raises(PresetError, match=r"model\.tflite does not match its line"):
            FaceEmbedder.from_preset(folder, runtime=runtime)


def test_what_a_file_cannot_do_is_told(
    faces: FaceEmbedder, light: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = FaceEmbedder.from_preset(light, runtime="litert")
    assert sk.load_preset(light, runtime="litert").check_golden() < 1e-4
    with pytest.raises(PresetError, match=r"saved from its Keras model, not from a TFLite file"):
        file.save_preset(tmp_path / "a")
    with pytest.raises(ExportError, match=r"Load it with `runtime=\"keras\"`"):
        to_tflite(file, tmp_path / "a.tflite")
    mirrored = FaceEmbedder(faces.backbone, dataclasses.replace(CONFIG, mirror="sum"))
    to_tflite(mirrored, tmp_path / "a.tflite")
    summed = FaceEmbedder.from_tflite(tmp_path / "a.tflite")
    crops = np.random.default_rng(1).integers(0, 256, (2, 112, 96, 3), np.uint8)
    np.testing.assert_allclose(summed.embed(crops), mirrored.embed(crops), atol=1e-5)
    with pytest.raises(PresetError, match=r"by the rule 'sum', inside\. Received: mirror='none'"):
        summed.embed_crops(crops)


def test_golden_vectors_tell_other_weights(preset: pathlib.Path) -> None:
    other = presets.build_backbone(CONFIG)
    presets.write_weights(other, preset / "model.weights.h5")
    resum(preset)
    with pytest.raises(PresetError, match=r"golden.npz: embeddings differ by"):
        FaceEmbedder.from_preset(preset).check_golden()


def test_changed_weights_do_not_keep_their_measurements(
    preset: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    faces = FaceEmbedder.from_preset(preset)
    faces.save_preset(tmp_path / "same")
    assert FaceEmbedder.from_preset(tmp_path / "same").metadata["thresholds"] == THRESHOLDS
    assert (tmp_path / "same" / "recipe.toml").read_text() == "[data]\n"
    faces.backbone.set_weights([0.5 * w for w in faces.backbone.get_weights()])
    faces.save_preset(tmp_path / "changed")
    assert "thresholds" not in FaceEmbedder.from_preset(tmp_path / "changed").metadata


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path: pathlib.Path, bad: float) -> None:
    backbone = presets.build_backbone(CONFIG)
    weights = backbone.get_weights()
    weights[0].flat[3] = bad
    backbone.set_weights(weights)
    with pytest.raises(PresetError, match="not finite or does not fit float16"):
        FaceEmbedder(backbone, CONFIG).save_preset(tmp_path / "bad")


def test_names_are_found_in_the_zoo_and_slips_get_the_nearest(
    preset: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(preset.parent))
    assert "tiny" in sk.list_presets()
    assert presets.find_preset("tiny") == preset
    with pytest.raises(PresetError, match=r"Unknown preset 'tny'.*Did you mean 'tiny'\?"):
        sk.load_preset("tny")


def test_the_most_accurate_preset_is_the_usual_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, accuracy in (("a", 0.9), ("b", 0.95), ("c", None), ("d", "odd")):
        metrics = [{"name": "LFW view 2", "accuracy": accuracy}] if accuracy else []
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "metadata.json").write_text(presets.to_json({"metrics": metrics}))
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(tmp_path))
    assert presets.most_accurate(["a", "b", "c"]) == "b"
    assert presets.most_accurate(["c", "none"]) == "c"
    (tmp_path / "d" / "metadata.json").write_text("{")
    assert presets.most_accurate(["d", "a"]) == "a"


def test_the_card_says_what_is_known_and_no_more(preset: pathlib.Path) -> None:
    card = (preset / "README.md").read_text()
    assert "| parameters |" in card and "| 0.01 | 0.5000 | 70.00 % | a test |" in card
    sections = [line for line in card.splitlines() if line.startswith("#")]
    assert sections == ["# tiny", "## Thresholds", "## Use"]


def test_a_name_is_the_zoos_whatever_the_working_directory_holds(
    preset: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "_zoos", lambda: [preset.parent])
    shutil.copytree(preset, tmp_path / "here" / "tiny")
    (tmp_path / "here" / "tiny" / "metadata.json").write_text("changed")
    monkeypatch.chdir(tmp_path / "here")
    assert presets.named("tiny") == preset
    assert presets.find_preset("tiny") == tmp_path / "here" / "tiny"  # a path comes first here
    shutil.copytree(preset, preset.parent / "better")
    metrics = presets.to_json({"metrics": [{"name": "LFW view 2", "accuracy": 0.9}]})
    presets.write_preset(preset.parent / "tiny", {"metadata.json": metrics})
    assert presets.most_accurate(["better", "tiny"]) == "tiny"


@pytest.mark.parametrize("name", ["README.md", "config.json", presets.SUMS])
def test_what_is_no_preset_is_not_replaced(
    faces: FaceEmbedder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_text("mine")
    with pytest.raises(PresetError, match=f"other is no preset, and its {name} would be replaced"):
        faces.save_preset(other)
    assert [path.read_text() for path in other.iterdir()] == ["mine"]


def test_a_preset_is_saved_beside_other_files_and_over_a_damaged_one(
    faces: FaceEmbedder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "work"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    monkeypatch.chdir(mine)
    faces.save_preset(".")  # beside other files, in a folder that has a name
    presets.check_files(mine)
    assert presets.read_metadata(mine)["name"] == "work"
    for name in ("config.json", presets.SUMS):
        (mine / name).write_text("  model.weights.h5\n")
        presets.check_files(faces.save_preset(mine))
    assert (mine / "notes.txt").read_text() == "mine"
    with pytest.raises(PresetError, match="A preset takes the name of its folder. Received: /"):
        presets.check_place(pathlib.Path("/"))


def test_a_save_that_was_killed_can_be_done_again(
    faces: FaceEmbedder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, placed = presets.os.replace, []

    def killed(source: str, target: str) -> None:
        if len(placed) == 1:
            raise KeyboardInterrupt
        placed.append(pathlib.Path(target).name)
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        faces.save_preset(tmp_path / "tiny")
    assert placed == ["config.json"]
    monkeypatch.setattr("os.replace", replace)
    presets.check_files(faces.save_preset(tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"thresholds": [{"far": 0.01, "threshold": 0.5, "tar": 0.7}]}, "it lacks 'data'"),
        ({"thresholds": [{"far": 0.01, "threshold": 0.5, "data": "a"}]}, "it lacks 'tar'"),
        ({"metrics": [{"name": "LFW view 2"}]}, "it lacks 'intervals'"),
        ({"calibration": {"method": "logistic", "prior": 0.5}}, "it lacks 'data'"),
        ({"terms": np.float32(1)}, "float32 is not JSON serializable"),
        ({"thresholds": [{"far": "low", "threshold": 0.5, "tar": 0.7, "data": "a"}]}, "format"),
    ],
)
def test_metadata_that_makes_no_card_is_named(
    faces: FaceEmbedder, tmp_path: pathlib.Path, metadata: dict[str, object], message: str
) -> None:
    with pytest.raises(
        PresetError, match=f"The metadata .*: .*{message}.*(A threshold|Give plain)"
    ):
        faces.save_preset(tmp_path / "tiny", metadata=metadata)
    assert not (tmp_path / "tiny").exists()


def test_the_card_tells_a_small_prior(faces: FaceEmbedder, tmp_path: pathlib.Path) -> None:
    known = Calibration("logistic", 0.5, 0.001, slope=2.0).to_dict() | {"data": "a test"}
    folder = faces.save_preset(tmp_path / "tiny", metadata={"calibration": known})
    assert "where 0.1% of all pairs are one person's; fitted" in (folder / "README.md").read_text()
