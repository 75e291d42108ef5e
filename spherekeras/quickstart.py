"""The whole road on drawn faces: train, verify, publish, reload, export, look.

It needs no data and no network. Faces of people who are not in training are drawn for the
verification, so the number it prints is an open-set one.
"""

import csv
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Callable

import numpy as np

from spherekeras import __version__, presets
from spherekeras.errors import DataError, SphereKerasError
from spherekeras.quickstart_page import QuickstartResults, write_page

PEOPLE, PICTURES = 120, 16
STRANGERS, STRANGER_PICTURES = 40, 8
_RECIPE = pathlib.Path(__file__).with_name("quickstart.toml")


def quickstart(
    out: str | os.PathLike[str], say: Callable[[str], None] = lambda text: None
) -> pathlib.Path:
    """Runs the whole road and returns the page that shows it.

    Args:
        out: folder for everything written: a new one, or an earlier quickstart's.
        say: called with one sentence a stage.

    Returns:
        Path of `index.html`.

    Raises:
        DataError: `out` holds files that are not an earlier quickstart's.
        ExportError: a package is missing, or Keras runs on another backend than TensorFlow.
    """
    import keras

    from spherekeras import export
    from spherekeras.data.drawn_faces import draw_face, drawn_crops, write_drawn_crops
    from spherekeras.embedder import FaceEmbedder
    from spherekeras.evaluation import metrics
    from spherekeras.export.serving import need, need_tensorflow_backend
    from spherekeras.training import train

    need_tensorflow_backend()  # told before the work
    need("tensorflow", "ai_edge_quantizer", "onnx", "onnxruntime")
    out, started = pathlib.Path(out), time.monotonic()
    _claim(out)

    say(f"Drawing {PEOPLE} people, {PICTURES} pictures each, and {STRANGERS} strangers ...")
    write_drawn_crops(out / "crops", range(PEOPLE), PICTURES)
    strangers, who = drawn_crops(range(PEOPLE, PEOPLE + STRANGERS), STRANGER_PICTURES)

    say("Training a SphereFace network with A-Softmax ...")
    folder = train(_RECIPE, out / "crops", out / "run")

    say("Loading the preset and verifying people it has never seen ...")
    faces = FaceEmbedder.from_preset(folder)
    faces.check_golden()
    embeddings = faces.embed(strangers)
    first, second = np.triu_indices(len(who), 1)
    similarities = np.sum(embeddings[first] * embeddings[second], axis=1)
    same = who[first] == who[second]
    threshold = faces.threshold(1e-2)["threshold"]
    accepted = similarities >= threshold
    accuracy = (np.mean(accepted[same]) + np.mean(~accepted[~same])) / 2
    auc = metrics.auc(similarities, same)

    say("Exporting, and running each file in its own runtime ...")
    reports = [
        export.to_tflite(faces, out / "export" / f"{q}.tflite", q)
        for q in ("float32", "float16", "dynamic")
    ]
    reports.append(export.to_onnx(faces, out / "export" / "float32.onnx"))

    with open(out / "run" / "log.csv", newline="") as file:
        log = list(csv.DictReader(file))
    results = QuickstartResults(
        history={k: [float(row[k]) for row in log] for k in ("loss", "lambda", "target_angle")},
        similarities=similarities,
        same=same,
        accuracy=float(accuracy),
        auc=auc,
        sphere_points=_on_a_sphere(embeddings[: 10 * STRANGER_PICTURES]),
        sphere_labels=who[: 10 * STRANGER_PICTURES],
        pictures=[draw_face(PEOPLE + i, p).image for i in range(4) for p in range(2)],
        crops=[strangers[i * STRANGER_PICTURES + p] for i in range(4) for p in range(2)],
        exports=[_row(report) for report in reports],
        environment={
            "spherekeras": __version__,
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "people": f"{PEOPLE} drawn for training, {STRANGERS} others for verification",
            "accuracy": "mean over pairs of one identity and pairs of two, each kind half",
            "threshold": f"{threshold:.4f}, at FAR 1e-2 on identities held out from training",
            "command": "spherekeras quickstart",
        },
        cards=[card for name in presets.list_presets() if (card := _card(name))],
    )
    page = out / "index.html"
    write_page(page, results)
    say(
        f"People never trained on: {accuracy:.1%} right (the mean over pairs of one person and "
        f"pairs of two), AUC {auc:.3f}. "
        f"{time.monotonic() - started:.0f} s in all."
    )
    return page.resolve()


def _claim(out: pathlib.Path) -> None:
    """Makes `out` an empty folder of the quickstart's own; other people's files are not touched."""
    marker = out / ".quickstart"
    if out.exists() and not marker.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds other files. Give a new folder with `--out`.")
    for name in ("crops", "run", "export"):
        if (out / name).exists():
            shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _on_a_sphere(embeddings: np.ndarray) -> np.ndarray:
    """The three main directions of embeddings, at unit length: what a 3-D picture can show."""
    basis = np.linalg.svd(embeddings, full_matrices=False)[2][:3]
    points = embeddings @ basis.T
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _row(report: object) -> dict[str, object]:
    values = report.to_dict()  # type: ignore[attr-defined]
    return {
        "format": f"{values['format']} {values['quantization']}",
        "size_mb": values["size_bytes"] / 1e6,
        "max_difference": values["max_difference"],
        "min_cosine": values["min_cosine"],
        "verdict": "pass",  # an export out of tolerance raises
    }


def _card(name: str) -> dict[str, dict[str, str]]:
    try:
        metadata = presets.read_metadata(presets.named(name))
    except SphereKerasError as error:
        return {name: {"damaged": str(error)}}
    rows = {"description": str(metadata.get("description", ""))}
    rows |= {metric["name"]: str(metric["value"]) for metric in metadata.get("metrics", [])}
    rows |= {key: str(metadata[key]) for key in ("parameters", "terms") if key in metadata}
    return {name: rows}
