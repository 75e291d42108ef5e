"""What the files of a preset still recognise: each measured through the file itself."""

import functools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from spherekeras import card, presets, publishing, teacher
from spherekeras.data import pipeline
from spherekeras.data.records import Records
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError, PresetError
from spherekeras.evaluation import VerificationResult, held_out, lfw
from spherekeras.evaluation.crops import MIRRORS
from spherekeras.export import parity, to_onnx, to_tflite
from spherekeras.export.onnx import open_session
from spherekeras.export.serving import need, need_tensorflow_backend
from spherekeras.latency import ROUNDS, by_turns
from spherekeras.litert import LiteRTModel
from spherekeras.provenance import processor, versions

# The weights are stored in float16; folded with batch norm they may lose some by it once more.
_CARRIED = ("float16", "float32")
_MOST_BYTES = 12_000_000  # of the file that a preset carries
_GOLDEN = 5e-5  # half of what is allowed: other processors round otherwise
_CROPS = 500  # whose cosines are told
_CALIBRATING = 300
_FARS = ("0.01", "0.001")

Run = Callable[[np.ndarray], np.ndarray]


def measure_files(
    preset: str | os.PathLike[str],
    data: str | os.PathLike[str],
    people: Records,
    detector: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Exports a published preset at every precision, measures the files, and keeps what they do.

    For each: size, cosine with Keras on 500 crops (or as many as there are), LFW view 2 through
    the file and its change against Keras, time on one and two threads, and thresholds of its own
    on the people held out, which `to_tflite` writes into the files it makes of this preset from
    then on. The preset then carries its float16 file, or the float32 one where only that gives the
    golden vectors with room; none over 12 MB.

    Args:
        preset: name or folder, published.
        data: LFW, folder or zip.
        people: the records of `publish`.
        detector: of faces, see `FaceEmbedder`.
        progress: called with (done, total) photographs, for one file after the other.

    Returns:
        The preset's folder.

    Raises:
        PresetError: a preset that was not published, or one that was downloaded, in the cache.
        ExportError: a missing package, or a float16 or ONNX file out of tolerance; another is left
            out with its reason.
        DataError: LFW or the records cannot be used.
    """
    need_tensorflow_backend()
    need("tensorflow", "ai_edge_quantizer", "onnx", "onnxruntime")
    faces = FaceEmbedder.from_preset(preset, detector)
    folder = presets.find_preset(preset)
    presets.check_place(folder)
    if faces.metadata.get("measured") != presets.stamp(folder):
        raise PresetError(
            f"{folder} was not published with these weights. First: `spherekeras zoo publish "
            f"{folder} --data LFW --out {folder}`."
        )
    subtract = presets.subtracts_mean(faces.metadata)
    faces.metadata.pop("files", None)
    positions, names, who, how = publishing.held_out_people(faces, people)
    strangers = teacher.turned(people, positions, faces.config)
    known, _ = pipeline.split(people, validation=publishing.validation_share(faces, people))
    others = "training" if presets.trained_on(faces.metadata) else "the records' other people"
    calibrating = teacher.turned(people, known[_spread(len(known), _CALIBRATING)], faces.config)
    chosen = strangers[_spread(len(strangers), _CROPS)]
    crops: dict[str, np.ndarray] = {}

    def tested(run: Run) -> VerificationResult:
        through: Any = _Through(publishing.Seen(faces, crops), run)
        return lfw(through, data, mirror="concat", subtract_mean=subtract, progress=progress)

    def keras(batch: np.ndarray) -> np.ndarray:
        return faces.embed_crops(batch, faces.config.mirror, True)

    base, wanted = tested(keras), keras(chosen)
    rows: list[dict[str, Any]] = []
    models: list[tuple[LiteRTModel, ...]] = []
    timed = []
    with tempfile.TemporaryDirectory() as scratch:
        for quantization in parity.TOLERANCES:
            name = f"TFLite {quantization}"
            path = pathlib.Path(scratch) / f"{quantization}.tflite"
            try:
                report = to_tflite(
                    faces, path, quantization, calibrating if quantization == "int8" else chosen
                )
            except ExportError as error:
                rows.append({"name": name, "refused": str(error).split(" over ")[0]})
                continue
            models.append(tuple(LiteRTModel(path, threads) for threads in (1, 2)))
            run = models[-1][1]
            through: Any = _Through(faces, run)
            own = held_out(through, strangers, names, who=who, how=how).to_metadata()
            row = _row(name, report, run, tested(run), base, chosen, wanted)
            rows.append({**row, "quantization": quantization, "thresholds": own["thresholds"]})
            timed.append(rows[-1])
        path = pathlib.Path(scratch) / "a.onnx"
        report, onnx = to_onnx(faces, path, layout="NCHW"), _onnx(path)
        rows.append(_row("ONNX float32", report, onnx, tested(onnx), base, chosen, wanted))
        pixels = chosen[:1].astype(np.float32)
        times = by_turns([functools.partial(run, pixels) for pair in models for run in pair])
        for row, *pair in zip(timed, times[::2], times[1::2], strict=True):
            row["milliseconds"] = [round(time, 2) for time in pair]
        unit = "each" if faces.config.mirror == "none" else "then"  # a rule is inside the files
        rule = faces.config.mirror if faces.config.mirror != "none" else "concat"
        faces.metadata["files"] = {
            "rows": rows,
            "how": f"{base.pairs:,} pairs of LFW view 2, {MIRRORS[rule]}, {unit} of unit length, "
            f"{'mean' if subtract else 'no mean'} subtracted (so computed, Keras reaches "
            f"{card.percent(base.accuracy)}); cosines on {len(chosen):,} crops of {who}; int8 "
            f"calibrated on {len(calibrating)} crops of {others}; milliseconds "
            f"of one crop on one and two threads, all files by turns, median of {ROUNDS}, "
            f"{processor()}; " + ", ".join(f"{key} {value}" for key, value in versions().items()),
        }
        path = pathlib.Path(scratch) / presets.TFLITE
        for quantization in _CARRIED:
            light = to_tflite(faces, path, quantization)
            content = path.read_bytes() if light.size_bytes <= _MOST_BYTES else None
            metadata = faces.metadata
            presets.write_preset(
                folder,
                {
                    "metadata.json": presets.to_json(metadata),
                    "README.md": card.card(metadata, faces.config),
                    presets.TFLITE: content,
                },
            )
            if content is None or _gives_golden(folder, faces.config):
                break
    return folder


def _spread(of: int, most: int) -> np.ndarray:
    """Places spread evenly over so many, each of them once."""
    return np.linspace(0, of - 1, min(of, most)).astype(int)


def _gives_golden(folder: pathlib.Path, config: presets.PresetConfig) -> bool:
    """Whether a preset's file gives its golden vectors with room, which mirror rules lack."""
    try:
        if config.mirror == "none":
            light = FaceEmbedder.from_preset(folder, runtime="litert")
            return light.check_golden() <= _GOLDEN
    except PresetError:
        return False
    return True


class _Through:
    """The embedder's own crops, embedded by a file; what is joined out here has unit length."""

    def __init__(self, faces: Any, run: Run) -> None:
        self._faces, self._run = faces, run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faces, name)

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        """Returns embeddings; `normalize` is met where nothing is joined."""
        rows = self._run(crops)
        if mirror == "concat" and self.config.mirror == "none":  # else it is done inside
            rows = np.concatenate([rows, self._run(crops[:, :, ::-1])], axis=1)
        return rows


def _row(
    name: str,
    report: parity.ExportReport,
    run: Run,
    test: VerificationResult,
    base: VerificationResult,
    crops: np.ndarray,
    wanted: np.ndarray,
) -> dict[str, Any]:
    tars, before = test.to_dict()["tar_at_far"], base.to_dict()["tar_at_far"]
    return {
        "name": name,
        "bytes": report.size_bytes,
        "runs": report.runs,
        "min_cosine": round(float(np.sum(run(crops) * wanted, axis=1).min()), 7),
        "accuracy": round(test.accuracy, 6),
        "change": round(test.accuracy - base.accuracy, 6),
        "tar_change": {
            far: round(tars[far] - before[far], 6)
            for far in _FARS
            if tars.get(far) is not None and before.get(far) is not None
        },
    }


def _onnx(path: pathlib.Path) -> Run:
    client = open_session(path)

    def run(crops: np.ndarray) -> np.ndarray:
        given = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), np.float32)
        return np.asarray(client.run(None, {"image": given})[0])

    return run
