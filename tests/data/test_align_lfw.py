"""All of LFW's photographs through the aligner, twice: none lost, not a byte different."""

import json
import os
import pathlib

import pytest

from spherekeras.data import detection
from spherekeras.data.align_folder import align_folder


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_photograph_of_lfw_gives_a_crop_and_the_same_bytes_again(
    data_folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = data_folder / "models" / "face_detection_yunet_2026may.onnx"
    if not model.is_file():
        pytest.skip(f"no {model}; set SPHEREKERAS_DATA")
    trees = []
    for workers in (3, 1):
        monkeypatch.setattr(os, "cpu_count", lambda workers=workers: workers)
        out = tmp_path / str(workers)
        detector = detection.YuNetDetector(model)
        report = align_folder(data_folder / "lfw-deepfunneled.zip", out, detector=detector)
        print(report)
        assert (report.aligned, report.failures) == (9056, ())
        files = (path for path in out.rglob("*") if path.is_file())
        trees.append({path.relative_to(out): path.read_bytes() for path in files})
    first, second = trees
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert len(first) == 9056 + 1
    lines = [json.loads(line) for line in first[pathlib.Path("manifest.jsonl")].splitlines()]
    assert sum("crop" in line for line in lines) == 9056
    assert min(line["score"] for line in lines if "crop" in line) > 0.45
