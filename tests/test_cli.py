"""The command line: what it prints, what it returns, what it writes."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import pickle
import shlex
import shutil
import subprocess
import sys
from typing import Any
from unittest import mock

import cv2
import numpy as np
import onnx
import pytest

from spherekeras import cli, evaluation, export, presets
from spherekeras.data.drawn_faces import draw_face, drawn_crops, write_drawn_crops
from spherekeras.data.records import open_records
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import Calibration
from spherekeras.litert import LiteRTModel
from spherekeras.recipe import Backbone, Recipe
from spherekeras.training import preset_config

CONFIG = preset_config(Recipe("tiny", backbone=Backbone(depth=4, embedding_dim=16)))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("zoo")
    metadata = {
        "thresholds": [{"far": 0.01, "threshold": 0.3, "tar": 0.5, "data": "a test"}],
        "calibration": Calibration("logistic", 0.5, 0.5, slope=2.0).to_dict() | {"data": "a test"},
    }
    FaceEmbedder(presets.build_backbone(CONFIG), CONFIG, metadata).save_preset(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pictures")
    for identity in range(2):
        (folder / f"person{identity}").mkdir()
        for number in range(2):
            path = folder / f"person{identity}" / f"{number}.png"
            cv2.imwrite(str(path), draw_face(identity, number, (240, 240)).image[..., ::-1])
    cv2.imwrite(str(folder / "grey.png"), np.full((120, 120, 3), 128, np.uint8))
    (folder / "text.jpg").write_text("no picture")
    return folder


def run(
    zoo: pathlib.Path, *arguments: object, process: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, where TensorFlow has loaded, or in one of its own."""
    words, env = [*map(str, arguments)], {"SPHEREKERAS_ZOO": str(zoo)}
    if process:
        return subprocess.run(
            [sys.executable, "-m", "spherekeras", *words],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=240,
        )
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, env))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            status = cli.main(words)
        except SystemExit as wrong_use:
            status = int(str(wrong_use.code))
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("spherekeras ")
    for word in words:
        assert word in result.stderr, result.stderr


def test_verify_answers_with_text_json_and_exit_status(
    zoo: pathlib.Path, pictures: pathlib.Path
) -> None:
    picture = pictures / "person0" / "0.png"
    same = run(zoo, "verify", picture, picture, "--preset", "tiny", process=True)
    assert same.returncode == 0, same.stderr
    assert same.stdout.startswith("same person: similarity 1.0000, threshold 0.3000 at FAR 0.01")
    probability = 1 / (1 + np.exp(-2))
    assert same.stdout.splitlines()[1] == (
        f"probability {probability:.4f} that it is one person, where 0.5 of all pairs are one "
        "person's"
    )
    assert same.stderr == ""
    no = run(zoo, "verify", picture, picture, "--preset", "tiny", "--threshold", "1.5", "--json")
    assert no.returncode == 1
    assert json.loads(no.stdout)["same"] is False
    assert json.loads(no.stdout)["probability"] == pytest.approx(probability)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("none.jpg", "grey.png"), ["none.jpg"]),
        (("grey.png", "grey.png"), ["No face was found in", "grey.png"]),
        (("text.jpg", "grey.png"), ["text.jpg"]),
    ],
)
def test_a_users_slip_is_one_sentence(
    zoo: pathlib.Path, pictures: pathlib.Path, names: tuple[str, str], words: list[str]
) -> None:
    one_sentence(run(zoo, "verify", *(pictures / n for n in names), "--preset", "tiny"), *words)


def test_other_slips_are_one_sentence_too(
    zoo: pathlib.Path, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    one_sentence(run(zoo, "verify", "a", "b", "--preset", "tinny"), "Did you mean 'tiny'?")
    (tmp_path / "r.toml").write_text("[training]\nstep = 1\n")
    one_sentence(
        run(zoo, "train", tmp_path / "r.toml", "--data", "x", "--out", tmp_path / "run"),
        "Unknown recipe key `training.step`. Did you mean `training.steps`?",
    )
    one_sentence(
        run(zoo, "pack", tmp_path / "none", "--out", tmp_path / "records"), "does not exist"
    )
    one_sentence(
        run(zoo, "export", "tiny", "--out", tmp_path / "model.pb"), ".tflite or .onnx", "model.pb"
    )
    one_sentence(run(zoo, "verify", "a", "b", "--detector", "yunett"), "yunett", "yunet")


def test_wrong_use_is_exit_status_2(zoo: pathlib.Path) -> None:
    assert run(zoo, "nothing").returncode == 2
    assert run(zoo, "verify", "one.jpg").returncode == 2


def test_embed_works_through_good_and_bad(
    zoo: pathlib.Path, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    good = [pictures / "person1" / "0.png", pictures / "person0" / "1.png"]
    result = run(
        zoo, "embed", pictures / "text.jpg", good[0], pictures / "grey.png", good[1],
        "--preset", "tiny", "--out", tmp_path / "out.npz",
    )  # fmt: skip
    assert result.returncode == 1
    assert "text.jpg" in result.stderr and "grey.png" in result.stderr
    with np.load(tmp_path / "out.npz") as out:
        assert out["paths"].tolist() == [*map(str, good)]
        wanted = FaceEmbedder.from_preset(zoo / "tiny").embed(good)
        np.testing.assert_allclose(out["embeddings"], wanted, atol=1e-5)
    assert abs(wanted[0] @ wanted[1]) < 0.999
    none = ["embed", pictures / "grey.png", "--preset", "tiny", "--out", tmp_path / "none.npz"]
    result = run(zoo, *none, "--json")
    told = json.loads(result.stdout)
    assert (result.returncode, told["out"], told["paths"]) == (1, None, [])
    assert "grey.png" in told["left_out"][0] and not (tmp_path / "none.npz").exists()
    assert run(zoo, *none).stdout == ""


def test_identify_ranks_the_gallery(zoo: pathlib.Path, pictures: pathlib.Path) -> None:
    probe = pictures / "person1" / "0.png"
    result = run(zoo, "identify", probe, "--gallery", pictures, "--preset", "tiny", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["ranked"][0] == ["person1", pytest.approx(1.0)]
    known = json.loads((zoo / "tiny" / "metadata.json").read_text())["thresholds"][0]
    assert (answer["threshold"], answer["far"]) == (known["threshold"], known["far"])
    told = run(zoo, "identify", probe, "--gallery", pictures, "--preset", "tiny")
    assert told.stdout.splitlines()[-1].startswith(
        f"* reaches the threshold {known['threshold']:.4f} at FAR {known['far']:g} of one "
        "comparison: a stranger meets "
    )
    own = [probe, "--gallery", pictures, "--preset", "tiny", "--threshold", "1.5"]
    told = run(zoo, "identify", *own)
    assert (told.returncode, "*" in told.stdout.splitlines()[0]) == (1, False)
    assert told.stdout.splitlines()[-1] == "* reaches the threshold 1.5000"
    percent = run(zoo, "identify", *own[:-1], "45")
    one_sentence(percent, "Give a FAR or a threshold (a similarity, from -2 to 2), not both. Rec")
    unknown = run(zoo, "identify", *own[:-2], "--far", "0.3")
    one_sentence(unknown, "This preset has no threshold at FAR 0.3; it has ")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Drawn crops as a .bin file, as videos, as probes and distractors.

    One pair of equal pictures claims to show two people, so no network and no threshold gets
    every pair right.
    """
    folder = tmp_path_factory.mktemp("sets")
    crops = drawn_crops(range(10), 3)[0].reshape(10, 3, 112, 96, 3)
    pictures, same, lines = [], [], []
    for person in range(10):
        encoded = []
        for number, crop in enumerate(crops[person]):
            encoded.append(cv2.imencode(".png", crop[..., ::-1])[1].tobytes())
            for name in (f"ytf/P{person}/{number}/0.png", f"probes/P{person}/{number}.png"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(encoded[-1])
        other = cv2.imencode(".png", crops[person - 1, 0])[1].tobytes()
        pictures += [*encoded[:2], encoded[2], other if person else encoded[2]]
        same += [True, False]
        lines.append(f"{person % 2 + 1}, 1, P{person}/0, P{person}/1, 1")
        other_video = f"P{(person + 2) % 10}/0" if person else "P0/2"
        lines.append(f"{person % 2 + 1}, 2, P{person}/2, {other_video}, 0")
    (folder / "toy.bin").write_bytes(pickle.dumps((pictures, same)))
    header = "split number, pair number, first name, second name, is same"
    (folder / "ytf" / "splits.txt").write_text("\n".join([header, *lines]))
    return folder


@pytest.mark.parametrize(
    ("protocol", "data", "kept"), [("bin", "toy.bin", ""), ("ytf", "ytf", " --keep-mean")]
)
def test_evaluate_gives_numbers_and_a_page(
    zoo: pathlib.Path,
    sets: pathlib.Path,
    tmp_path: pathlib.Path,
    protocol: str,
    data: str,
    kept: str,
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    result = run(
        zoo, "evaluate", "tiny", "--protocol", protocol, "--data", sets / data, "--json",
        "--out", out, "--report", page, *kept.split(),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == json.loads(out.read_text())
    values = json.loads(result.stdout)
    assert values["pairs"] == 20 and values["no_face"] == ([] if protocol == "ytf" else None)
    assert "aligned crops as they are" in values["protocol"]
    assert "no mean subtracted" in values["protocol"]
    text = page.read_text()
    assert f"<h1>tiny on {values['name']}</h1>" in text and 'src="data:image/jpeg' in text
    assert f"--protocol {protocol} --data {data}{kept}<" in text


def test_evaluate_subtracts_the_mean_where_the_preset_was_published_so(
    zoo: pathlib.Path, sets: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = pathlib.Path(shutil.copytree(zoo / "tiny", tmp_path / "tiny"))
    known = json.loads((folder / "metadata.json").read_text())
    metric = {"name": "LFW view 2", "accuracy": 0.9, "subtract_mean": False}
    presets.write_preset(folder, {"metadata.json": presets.to_json({**known, "metrics": [metric]})})
    ytf = ["--protocol", "ytf", "--data", sets / "ytf", "--json"]
    wanted = {
        (zoo / "tiny",): False,
        (folder,): True,
        (folder, "--subtract-mean"): False,
        (zoo / "tiny", "--keep-mean"): True,
    }
    for asked, kept in wanted.items():
        result = run(zoo, "evaluate", *asked, *ytf)
        assert ("no mean subtracted" in json.loads(result.stdout)["protocol"]) is kept, asked
    binary = ["--protocol", "bin", "--data", sets / "toy.bin", "--subtract-mean"]
    one_sentence(
        run(zoo, "evaluate", folder, *binary), "`--subtract-mean` is no part of bin. Leave it out."
    )


def test_evaluate_among_distractors(zoo: pathlib.Path, sets: pathlib.Path) -> None:
    megaface = ["evaluate", "tiny", "--protocol", "megaface", "--data", sets / "probes"]
    result = run(zoo, *megaface, "--distractors", sets / "ytf")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("10 distractors: rank 1 ")
    assert "60 searches with 30 pictures of 10 people" in result.stdout
    one_sentence(run(zoo, *megaface), "`--protocol megaface` needs `--distractors FOLDER`; no oth")
    with_page = [*megaface, "--distractors", sets, "--report", "page.html"]
    one_sentence(run(zoo, *with_page), "`--report` draws the scores of single pairs", "megaface")
    to_folder = run(zoo, *megaface, "--distractors", sets / "ytf", "--out", sets)
    one_sentence(to_folder, f"{sets} cannot be written: it is a folder. Name a file in a folder t")
    with_mean = [*megaface, "--distractors", sets, "--keep-mean"]
    one_sentence(run(zoo, *with_mean), "`--keep-mean` is what megaface does anyway. Leave it out.")
    ijb = run(zoo, "evaluate", "tiny", "--protocol", "ijb", "--data", sets)
    one_sentence(ijb, "Expected one *_face_tid_mid.txt in")


def test_pack_and_export(zoo: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for crop, label in zip(*drawn_crops(range(2), 2), strict=True):
        (tmp_path / "crops" / f"p{label}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "crops" / f"p{label}" / f"{crop.sum()}.png"), crop)
    packed = run(zoo, "pack", tmp_path / "crops", "--out", tmp_path / "records")
    assert (packed.returncode, packed.stderr) == (0, "")
    assert packed.stdout.startswith("4 crops of 2 people, 112x96, in ")
    exported = run(zoo, "export", "tiny", "--out", tmp_path / "tiny.tflite", "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["min_cosine"] >= 0.999999
    int8 = ["--quantization", "int8", "--representative", tmp_path / "records"]
    with mock.patch("spherekeras.export.to_tflite", wraps=export.to_tflite) as called:
        assert run(zoo, "export", "tiny", "--out", tmp_path / "8.tflite", *int8).returncode == 0
    given = called.call_args.kwargs["representative"]
    np.testing.assert_array_equal(given, open_records(tmp_path / "records").crops(range(4)))
    assert np.size(LiteRTModel(tmp_path / "8.tflite")(given[0][None])) == 16
    drop_in = ["--layout", "NCHW", "--pixels", "uint8", "--crop", "arcface_112x112"]
    done = run(zoo, "export", "tiny", "--out", tmp_path / "tiny.onnx", *drop_in)
    assert done.returncode == 0, done.stderr
    taken = onnx.load(tmp_path / "tiny.onnx").graph.input[0].type.tensor_type
    assert [d.dim_value for d in taken.shape.dim][1:] == [3, 112, 112]
    assert taken.elem_type == onnx.TensorProto.UINT8


def test_train_prints_one_object(zoo: pathlib.Path, tmp_path: pathlib.Path) -> None:
    crops = write_drawn_crops(tmp_path / "crops", range(4), 2)
    text = "[backbone]\ndepth = 4\nembedding_dim = 8\n[training]\nsteps = 1\nbatch_size = 4\n"
    (tmp_path / "r.toml").write_text(f"{text}checkpoint_steps = 1\n")
    asked = ["train", tmp_path / "r.toml", "--data", crops, "--out", tmp_path / "run", "--json"]
    result = run(zoo, *asked)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"preset": str(tmp_path / "run" / "preset")}
    assert "loss" in result.stderr


def test_an_exported_file_is_used_as_a_preset_is(
    zoo: pathlib.Path, pictures: pathlib.Path, sets: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "tiny.tflite"
    assert run(zoo, "export", "tiny", "--out", file).returncode == 0
    pair = (pictures / "person0" / "0.png", pictures / "person0" / "1.png")
    by_file, by_name = (
        json.loads(run(zoo, "verify", *pair, "--preset", preset, "--json").stdout)
        for preset in (file, "tiny")
    )
    assert by_file.pop("similarity") == pytest.approx(by_name.pop("similarity"), abs=1e-5)
    assert by_file["threshold"] == by_name["threshold"] == 0.3
    wrong = run(zoo, "verify", *pair, "--preset", file, "--runtime", "keras")
    one_sentence(wrong, "tiny.tflite runs on LiteRT. Leave `--runtime keras` out.")
    toy = ["--protocol", "bin", "--data", sets / "toy.bin", "--json"]
    measured = run(zoo, "evaluate", file, *toy)
    assert (measured.returncode, measured.stderr) == (0, "")
    values = json.loads(measured.stdout)
    assert values["pairs"] == 20 and "each of unit length" in values["protocol"]
    wrong = run(zoo, "evaluate", file, *toy, "--runtime", "keras")
    one_sentence(wrong, "tiny.tflite runs on LiteRT. Leave `--runtime keras` out.")
    one_sentence(
        run(zoo, "verify", *pair, "--preset", "tiny", "--runtime", "litert"),
        "carries no model.tflite",
    )


def test_verify_takes_the_presets_file_and_leaves_keras_alone(
    zoo: pathlib.Path, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = pathlib.Path(shutil.copytree(zoo / "tiny", tmp_path / "zoo" / "tiny"))
    run(zoo, "export", "tiny", "--out", folder / presets.TFLITE)
    presets.write_preset(folder, {})
    picture = pictures / "person0" / "0.png"
    code = (
        "import sys; from spherekeras import cli\n"
        "status = cli.main(sys.argv[1:])\n"
        "print(status, [m for m in ('tensorflow', 'keras', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", picture, picture, "--preset", "tiny"],
        env={**os.environ, "SPHEREKERAS_ZOO": str(folder.parent)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert done.stdout.startswith("same person: similarity 1.0000") and done.stderr == ""


def test_a_file_with_a_mirror_rule_is_evaluated_by_its_own(
    sets: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(CONFIG, mirror="sum")
    faces = FaceEmbedder(presets.build_backbone(config), config)
    export.to_tflite(faces, tmp_path / "summed.tflite")
    by_file = FaceEmbedder.from_tflite(tmp_path / "summed.tflite")
    asked = ["--protocol", "ytf", "--data", sets / "ytf", "--json"]
    done = run(tmp_path, "evaluate", tmp_path / "summed.tflite", *asked)
    assert (done.returncode, done.stderr) == (0, "")
    values = json.loads(done.stdout)
    wanted = evaluation.ytf(by_file, sets / "ytf", mirror="sum").to_dict()
    assert values == json.loads(json.dumps(wanted)) and values["pairs"] == 20
    assert "of its mirror image are added, then of unit length" in values["protocol"]
    for protocol, data in (("bin", "toy.bin"), ("megaface", "probes")):
        asked = ["--protocol", protocol, "--data", sets / data]
        asked += ["--distractors", sets / "ytf"] if protocol == "megaface" else []
        done = run(tmp_path, "evaluate", tmp_path / "summed.tflite", *asked)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_usual_preset_is_the_zoos_whatever_the_working_directory_holds(
    zoo: pathlib.Path,
    pictures: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presets, "_zoos", lambda: [zoo])
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    picture = pictures / "person0" / "0.png"
    done = run(zoo, "verify", picture, picture)
    assert done.returncode == 0 and done.stdout.startswith("same person"), done.stderr
    assert run(zoo, "zoo", "show", "ti*").stdout.startswith("# tiny")
    assert run(zoo, "zoo", "show", "tiny").returncode == 1  # here a path comes first


def test_show_goes_on_after_a_damaged_preset(
    zoo: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(zoo / "tiny", tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    monkeypatch.setattr(presets, "_zoos", lambda: [tmp_path])
    shown = run(zoo, "zoo", "show", "[ab]")
    assert shown.returncode == 1 and shown.stdout.startswith("# tiny")
    assert shown.stderr.startswith(f"left out: {tmp_path / 'a' / 'SHA256SUMS'} is missing")
    known = json.loads(run(zoo, "zoo", "show", "?", "--json").stdout)
    assert [row["preset"] for row in known] == [str(tmp_path / "b")]
    one_sentence(run(zoo, "zoo", "show", "a"), "SHA256SUMS is missing")


def test_every_command_prints_json(
    zoo: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "_zoos", lambda: [tmp_path / "zoo"])
    folder = shutil.copytree(zoo / "tiny", tmp_path / "zoo" / "tiny")

    def of(*words: object, status: int = 0) -> Any:
        done = run(zoo, *words, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    metadata = presets.read_metadata(folder)
    assert of("zoo", "show", "tiny") == [{"preset": str(folder), "metadata": metadata}]
    assert of("zoo", "fetch", "t*") == {"folders": [str(folder)]}
    [known] = of("zoo", "check")
    assert (known["preset"], known["good"]) == ("tiny", True)
    assert known["verdict"].startswith("files intact, golden vectors within ")
    assert [row["good"] for row in of("zoo", "check", "tiny", "none", status=1)] == [True, False]
    asked = ["--url", "https://example.org/zoo", "--out", tmp_path / "manifest.json"]
    assert of("zoo", "manifest", tmp_path / "zoo", *asked) == {
        "manifest": str(tmp_path / "manifest.json")
    }
    with mock.patch("spherekeras.zoo_pages.write_cards", return_value=["tiny"]) as written:
        assert of("zoo", "cards", tmp_path / "zoo") == {"written": ["tiny"]}
    assert written.call_args.args == (str(tmp_path / "zoo"), False)
    made = {**metadata, "converted_from": {"file": "a", "sha256": "b", "left_out": ["fc6"]}}
    presets.write_preset(folder, {"metadata.json": presets.to_json(made)})
    with mock.patch("spherekeras.zoo.convert", return_value=folder):
        asked = ["--from", "caffe", "--out", folder]
        assert of("zoo", "convert", "a", *asked) == {"preset": str(folder), "left_out": ["fc6"]}
    with mock.patch("spherekeras.publishing.publish", return_value=folder):
        asked = ["--data", "lfw", "--out", folder]
        published = of("zoo", "publish", "tiny", *asked)
    assert published == {"preset": str(folder), "metadata": made}
    file = folder / presets.TFLITE
    for keeps in (True, False):
        file.touch()
        with mock.patch("spherekeras.publishing.publish", return_value=folder) as published:
            published.side_effect = None if keeps else lambda *given: (file.unlink(), folder)[1]
            done = run(zoo, "zoo", "publish", "tiny", "--data", "lfw", "--out", folder)
        told = "Its model.tflite told of other numbers and is not in" in done.stderr
        assert told != keeps
        file.unlink(missing_ok=True)

    def quick(out: str, say: Any) -> pathlib.Path:
        say("Drawing ...")
        print("1/400 loss")
        return pathlib.Path(out, "index.html")

    with mock.patch("spherekeras.quickstart.quickstart", quick):
        assert of("quickstart", "--out", "out") == {"page": "out/index.html"}


def test_a_name_in_no_encoding_is_told(
    zoo: pathlib.Path, pictures: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    person = os.fsencode(tmp_path) + b"/J\xfcrg"
    try:
        os.mkdir(person)
    except OSError as error:
        pytest.skip(f"this file system takes no names that are not UTF-8: {error}")
    shutil.copy(pictures / "person0" / "0.png", os.path.join(person, b"0.png"))
    words = ["identify", str(pictures / "person0" / "0.png"), "--gallery", str(tmp_path)]
    command = [sys.executable, "-m", "spherekeras", *words, "--preset", "tiny"]
    env = {**os.environ, "SPHEREKERAS_ZOO": str(zoo), "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("* 1.0000  J\\udcfcrg")
    closed = f"{' '.join(map(shlex.quote, command))} 2>&-"
    assert subprocess.run(closed, env=env, shell=True, timeout=240).returncode == 0


def test_every_command_offers_json() -> None:
    def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        return [leaf for a in below for p in a.choices.values() for leaf in leaves(p)] or [parser]

    found = leaves(cli._parser())
    assert len(found) == 19
    assert all("--json" in parser.format_help() for parser in found)


def test_zoo_list_show_and_check(
    zoo: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(zoo))
    assert cli.main(["zoo", "list", "--json"]) == 0
    assert "tiny" in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert cli.main(["zoo", "show", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("# tiny")
    assert cli.main(["zoo", "check", "tiny"]) == 0
    assert "good  tiny: files intact" in capsys.readouterr().out
    assert cli.main(["zoo", "check", "none"]) == 1
    assert "BAD   none: Unknown preset" in capsys.readouterr().out
