"""The command line: each verb parses, calls one function of the package, and prints.

Exit status: 0 done (or "same person"), 1 the answer is no or the work failed, 2 wrong use, 75 a run
over several workers lost one: the same command goes on.
"""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spherekeras import __version__
from spherekeras.errors import SphereKerasError, TrainingError
from spherekeras.terminal import silenced


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed: what is told goes nowhere
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name in no encoding shall not end long work
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(options.run(options) or 0)
    except SphereKerasError as error:
        print(f"spherekeras {options.verb}: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"spherekeras {options.verb}: {error}.", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(str(error.name).split(".")[0])
        if extra is None:
            raise
        print(
            f"spherekeras {options.verb}: needs {error.name}, which is not installed. Run "
            f"`pip install 'spherekeras[{extra}]'`.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"spherekeras {options.verb}: stopped.", file=sys.stderr)
        return 130


_VARIABLES = """environment variables:
  SPHEREKERAS_MANIFEST  what can be downloaded: a file of `spherekeras zoo manifest`
  SPHEREKERAS_MIRROR    base URL in place of scheme and host of the manifest's URLs
  SPHEREKERAS_CACHE     where presets are kept (default: ~/.cache/spherekeras)
  SPHEREKERAS_OFFLINE   1: nothing is downloaded"""

_EXTRAS = {
    "absl": "tensorflow",
    "h5py": "tensorflow",
    "keras": "tensorflow",
    "onnx": "export",
    "onnxruntime": "export",
    "tensorboard": "train",
    "tensorflow": "tensorflow",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "spherekeras", description="Hyperspherical face recognition in Keras 3."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[..., int | None], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print JSON")
        added.set_defaults(run=run)
        return added

    quick = verb("quickstart", _quickstart, "Train, verify and export on drawn faces; no data.")
    quick.add_argument("--out", default="quickstart", help="folder to write (default: quickstart)")

    align = verb("align", _align, "Find and align the faces of photographs.")
    align.add_argument(
        "source", nargs="+", help="folders, zips, photographs, or .txt files with a path a line"
    )
    align.add_argument("--out", required=True, help="folder for the crops and manifest.jsonl")
    align.add_argument("--template", default="sphereface_112x96")
    align.add_argument(
        "--rule",
        default="central-largest",
        help="which of several faces: central-largest (default), largest, central or best",
    )
    _add_detector(align)

    pack = verb("pack", _pack, "Write crops (a folder a person) as records for training.")
    pack.add_argument("source", help="folder or zip of crops")
    pack.add_argument("--out", required=True, help="folder for the records")

    train = verb("train", _train, "Train a network by a recipe; goes on where it was stopped.")
    train.add_argument("recipe", help="recipe, a .toml file")
    train.add_argument("--data", required=True, help="folder or zip of crops, or a records folder")
    train.add_argument("--out", required=True, help="folder of the run")
    train.add_argument(
        "--workers",
        metavar="N",
        help="so many processes on this machine, started again when one dies; or host:port,... of "
        "the workers on several machines, the same for each",
    )
    train.add_argument("--worker", type=int, metavar="I", help="which of host:port,... this is")
    train.add_argument(
        "--profile", action="store_true", help="write OUT/profile.html: where a step's time goes"
    )

    evaluate = verb("evaluate", _evaluate, "Measure a preset by a published protocol.")
    evaluate.add_argument("preset", help="name or folder, or an exported .tflite file")
    evaluate.add_argument(
        "--protocol", default="lfw", choices=("lfw", "lfw-view1", "bin", "ijb", "ytf", "megaface")
    )
    evaluate.add_argument(
        "--data",
        required=True,
        help="lfw: folder or zip; bin: file; ijb: folder IJBB or IJBC; ytf: folder with splits.txt "
        "and <person>/<video>/<frame>.jpg; megaface: folder with a folder a person",
    )
    evaluate.add_argument("--distractors", help="megaface: folder with pictures of other people")
    mean = evaluate.add_mutually_exclusive_group()
    mean.add_argument(
        "--keep-mean",
        action="store_true",
        help="lfw, lfw-view1, ytf: leave the embeddings where they are, as `verify` does",
    )
    mean.add_argument(
        "--subtract-mean",
        action="store_true",
        help="subtract the mean of the fitting pairs, as the SphereFace release does (default: as "
        "the preset was published; where it was not, subtract)",
    )
    evaluate.add_argument("--out", help="file for the result as JSON")
    evaluate.add_argument(
        "--report", help="lfw, bin, ytf: page of curves and worst errors, an .html file"
    )
    _add_detector(evaluate)
    _add_runtime(evaluate, "keras")

    embed = verb("embed", _embed, "Write the embeddings of photographs.")
    embed.add_argument("pictures", nargs="+", help="photographs")
    embed.add_argument("--preset", help="name, folder or .tflite file (default: the most accurate)")
    embed.add_argument("--out", required=True, help=".npz with `embeddings` and `paths`")
    _add_detector(embed)
    _add_runtime(embed, "auto")

    verify = verb("verify", _verify, "Say whether two photographs show one person.")
    verify.add_argument("a")
    verify.add_argument("b")
    verify.add_argument(
        "--preset", help="name, folder or .tflite file (default: the most accurate)"
    )
    rate = verify.add_mutually_exclusive_group()
    rate.add_argument("--far", type=float, help="false accept rate of the threshold")
    rate.add_argument("--threshold", type=float, help="similarity of your own")
    _add_detector(verify)
    _add_runtime(verify, "auto")

    identify = verb("identify", _identify, "Say who of a gallery a photograph shows.")
    identify.add_argument("probe", help="photograph")
    identify.add_argument("--gallery", required=True, help="folder with a folder a person")
    identify.add_argument(
        "--preset", help="name, folder or .tflite file (default: the most accurate)"
    )
    rate = identify.add_mutually_exclusive_group()
    rate.add_argument(
        "--far", type=float, help="false accept rate of the threshold, of one comparison"
    )
    rate.add_argument("--threshold", type=float, help="similarity of your own")
    _add_detector(identify)
    _add_runtime(identify, "auto")

    export = verb("export", _export, "Write a preset as TFLite or ONNX, with a parity report.")
    export.add_argument("preset", help="name or folder")
    export.add_argument("--out", required=True, help="file ending in .tflite or .onnx")
    export.add_argument(
        "--quantization", default="float32", help="TFLite: float32, float16, dynamic or int8"
    )
    export.add_argument(
        "--representative", help="a records folder of crops to measure on, and calibrate int8 on"
    )
    export.add_argument("--layout", default="NHWC", help="ONNX: NHWC (default) or NCHW")
    export.add_argument("--pixels", default="float32", help="ONNX: float32 (default) or uint8")
    export.add_argument("--crop", help="ONNX: template of the crops the file takes, if another")

    zoo = verbs.add_parser("zoo", help="List, fetch, show, check and publish presets.")
    actions = zoo.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(
        name: str, run: Callable[..., int | None], text: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        added = actions.add_parser(name, help=text, epilog=epilog, formatter_class=form)
        added.add_argument("--json", action="store_true", help="print JSON")
        added.set_defaults(run=run)
        return added

    listing = action("list", _zoo_list, "the presets, those to be fetched among them")
    listing.add_argument("pattern", nargs="*", help="names, such as 'sphere*' (default: all)")
    fetch = action("fetch", _zoo_fetch, "download presets into the cache", _VARIABLES)
    fetch.add_argument("preset", nargs="+", help="names, such as 'sphere*'")
    show = action("show", _zoo_show, "a preset's card")
    show.add_argument("preset", help="name or folder, or names, such as 'sphere*'")
    check = action("check", _zoo_check, "verify files and golden vectors")
    check.add_argument(
        "preset", nargs="*", help="names, * and ? allowed, or folders (default: all)"
    )
    publish = action("publish", _zoo_publish, "measure a trained preset and write its card")
    publish.add_argument("preset", help="folder of a trained preset")
    publish.add_argument("--data", required=True, help="LFW, folder or zip")
    publish.add_argument("--out", required=True, help="folder in the zoo")
    publish.add_argument("--people", help="records to measure the thresholds on anew")
    _add_detector(publish)
    files = action("files", _zoo_files, "measure a published preset's files, and carry one")
    files.add_argument("preset", help="name or folder")
    files.add_argument("--data", required=True, help="LFW, folder or zip")
    files.add_argument("--people", required=True, help="the records of `zoo publish`")
    _add_detector(files)
    cards = action("cards", _zoo_cards, "write the cards of a zoo from what was measured")
    cards.add_argument("zoo", help="folder of presets")
    cards.add_argument(
        "--latency", action="store_true", help="time all presets anew, side by side, and keep it"
    )
    compare = action("compare", _zoo_compare, "the presets, their latency measured side by side")
    compare.add_argument("pattern", nargs="*", help="names, such as 'sphere*' (default: all)")
    manifest = action("manifest", _zoo_manifest, "write what a server of presets has")
    manifest.add_argument("zoo", help="folder of presets")
    manifest.add_argument("--url", required=True, help="where the server shows that folder")
    manifest.add_argument("--out", required=True, help="the manifest, a .json file")
    convert = action("convert", _zoo_convert, "another library's weights to a preset")
    convert.add_argument("file", help="the weight file")
    convert.add_argument(
        "--from", dest="kind", required=True, choices=("caffe", "clcarwin", "dlib", "opensphere")
    )
    convert.add_argument("--out", required=True, help="folder of the preset")
    convert.add_argument(
        "--network", help="opensphere: its name in config.yml, such as sfnet20_deprecated"
    )
    return parser


def _add_detector(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", default="auto", help="auto, mtcnn or yunet")
    parser.add_argument("--detector-model", help="YuNet's .onnx file")


def _add_runtime(parser: argparse.ArgumentParser, default: str) -> None:
    parser.set_defaults(preset_runtime=default)
    parser.add_argument(
        "--runtime",
        choices=("auto", "keras", "litert"),
        help="auto: LiteRT where the preset carries a file for it, which needs no Keras and starts "
        f"at once; else Keras (default: {default}); a .tflite file runs on LiteRT",
    )


def _quickstart(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras.quickstart import quickstart
    with _aside(options):
        page = quickstart(options.out, say=lambda text: print(text, flush=True))
    _show(options, {"page": str(page)}, f"Open {page}")


def _align(options: argparse.Namespace) -> int:
    from spherekeras.data.align_folder import align_folder

    detector = _detector(options)
    with _quiet_decoders():
        report = align_folder(
            options.source, options.out, options.template, detector, rule=options.rule
        )
    failures = {failure.source: failure.reason for failure in report.failures}
    counts = {
        name: getattr(report, name)
        for name in ("aligned", "already_done", "several_faces", "several_frames", "skipped")
    }
    _show(options, {"out": options.out, **counts, "failures": failures}, str(report))
    for source, reason in failures.items():
        print(f"left out: {source}: {reason}", file=sys.stderr)
    return 1 if report.failures else 0


def _pack(options: argparse.Namespace) -> int:
    from spherekeras.data.records import pack

    with _quiet():
        pass  # Keras and its backend
    with _progress("packing") as progress:
        records = pack(options.source, options.out, progress)
    people, size = len(records.identities), [records.height, records.width]
    _show(
        options,
        {"out": options.out, "crops": len(records), "people": people, "size": size},
        f"{len(records):,} crops of {people:,} people, {size[0]}x{size[1]}, in {options.out}",
    )
    for skipped in records.skipped:
        print(f"left out: {skipped['picture']}: {skipped['reason']}", file=sys.stderr)
    return 1 if records.skipped else 0


def _train(options: argparse.Namespace) -> int:
    from spherekeras.recipe import load_recipe

    load_recipe(options.recipe)  # a slip in the recipe is told before TensorFlow loads
    if options.worker is None and options.workers and options.workers.isdecimal():
        return _train_here(options)
    if (options.worker is None) != (options.workers is None):
        raise TrainingError(
            "`--workers host:port,...` and `--worker` go together. Received: one of them. Give "
            "`--worker 0` on the first machine, `--worker 1` on the second."
        )
    if options.workers:
        hosts = options.workers.split(",")
        task = {"type": "worker", "index": options.worker}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
    with _quiet():
        from absl import logging as absl_logging

        from spherekeras.training import train
    absl_logging.set_verbosity(absl_logging.INFO)
    with _aside(options):
        folder = train(
            options.recipe,
            options.data,
            options.out,
            verbose=1 if sys.stderr.isatty() else 2,
            profile=options.profile,
        )
    _show(options, {"preset": str(folder)}, f"Preset: {folder}")
    return 0


def _train_here(options: argparse.Namespace) -> int:
    """Training by several processes of this machine."""
    from spherekeras.workers import run_workers

    command = [sys.executable, "-m", "spherekeras", "train", options.recipe]
    command += ["--data", options.data, "--out", options.out]
    command += [f"--{name}" for name in ("json", "profile") if getattr(options, name)]
    return run_workers(int(options.workers), command, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from spherekeras import evaluation, presets
    from spherekeras.errors import DataError
    from spherekeras.evaluation import report_page
    from spherekeras.files import atomic_path, check_target

    protocol, data = options.protocol, options.data
    if bool(options.distractors) != (protocol == "megaface"):  # all told before the long work
        raise DataError("`--protocol megaface` needs `--distractors FOLDER`; no other takes it.")
    if protocol in ("bin", "ijb", "megaface"):
        if options.keep_mean:
            raise DataError(f"`--keep-mean` is what {protocol} does anyway. Leave it out.")
        if options.subtract_mean:
            raise DataError(f"`--subtract-mean` is no part of {protocol}. Leave it out.")
    if options.report and protocol in ("ijb", "megaface"):
        raise DataError(
            f"`--report` draws the scores of single pairs, which {protocol} does not keep. Leave "
            "it out, and write the numbers with `--out`."
        )
    for target in filter(None, (options.out, options.report)):
        check_target(target)
    faces = _load(options, lazy=not protocol.startswith("lfw"))
    if protocol in ("lfw", "lfw-view1", "ytf") and not (options.keep_mean or options.subtract_mean):
        options.subtract_mean = presets.subtracts_mean(faces.metadata)
        options.keep_mean = not options.subtract_mean
    rules: dict[str, Any] = {}
    if getattr(faces, "unit_parts", False) and faces.config.mirror != "none":
        rules = {"mirror": faces.config.mirror}  # inside the file, whatever the protocol's usual
    averaged = {**rules, "subtract_mean": options.subtract_mean}
    result: Any
    with _progress("videos" if protocol == "ytf" else "pictures") as progress:
        if protocol == "bin":
            result = evaluation.bin_set(faces, data, **rules, progress=progress)
        elif protocol == "ijb":
            result = evaluation.ijb(faces, data, **rules, progress=progress)
        elif protocol == "ytf":
            result = evaluation.ytf(faces, data, **averaged, progress=progress)
        elif protocol == "megaface":
            result = evaluation.megaface_folders(
                faces, data, options.distractors, **rules, progress=progress
            )
        else:
            view = 1 if protocol == "lfw-view1" else 2
            result = evaluation.lfw(faces, data, view, **averaged, progress=progress)
    _show(options, result.to_dict(), str(result))
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(result.to_dict(), indent=1) + "\n")
    if options.report:
        name = pathlib.Path(faces.folder or options.preset).resolve().name
        measured_by = _measured_by(options, faces, name)
        page = report_page.report_of(result, f"{name} on {result.name}", measured_by)
        report_page.write_report(options.report, page)


def _measured_by(options: argparse.Namespace, faces: Any, name: str) -> dict[str, str]:
    """Preset, versions, machine and command of a measurement, for a page."""
    import platform

    from spherekeras import presets, provenance
    from spherekeras.files import sha256

    data = pathlib.Path(options.data).resolve().name
    weights, runtime = pathlib.Path(options.preset), ""
    if faces.folder and getattr(faces, "unit_parts", False):
        weights, runtime = faces.folder / presets.TFLITE, " --runtime litert"
    elif faces.folder:
        weights = faces.folder / "model.weights.h5"
    return {
        "preset": f"{name}, weights {sha256(weights)[:16]} (SHA-256)",
        "spherekeras": __version__,
        **provenance.versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": f"spherekeras evaluate {name} --protocol {options.protocol} --data {data}"
        + (" --keep-mean" if options.keep_mean else "")
        + (" --subtract-mean" if options.subtract_mean else "")
        + (f" --detector {options.detector}" if options.detector != "auto" else "")
        + (" --detector-model MODEL" if options.detector_model else "")
        + runtime,
    }


def _embed(options: argparse.Namespace) -> int:
    import numpy as np

    from spherekeras.files import atomic_path, check_target

    check_target(options.out)
    faces = _load(options)
    paths, crops, failed = _crops(faces, options.pictures)
    for reason in failed:
        print(f"left out: {reason}", file=sys.stderr)
    if paths:
        with atomic_path(options.out) as temporary, temporary.open("wb") as file:
            np.savez(file, embeddings=faces.embed(np.stack(crops)), paths=np.array(paths))
    if paths or options.json:
        written = {"out": options.out if paths else None, "paths": paths, "left_out": failed}
        _show(options, written, f"{len(paths)} embeddings in {options.out}")
    return 1 if failed else 0


def _verify(options: argparse.Namespace) -> int:
    import dataclasses

    faces = _load(options)
    answer = faces.verify(options.a, options.b, options.far, options.threshold)
    if options.json:
        print(json.dumps(dataclasses.asdict(answer), indent=1))
    else:
        verdict = "same person" if answer.same else "different people"
        rate = f" at FAR {answer.far:g}" if answer.far is not None else ""
        print(
            f"{verdict}: similarity {answer.similarity:.4f}, threshold {answer.threshold:.4f}"
            f"{rate} ({answer.data})"
        )
        if answer.probability is not None:
            prior = faces.metadata["calibration"]["prior"]
            print(
                f"probability {answer.probability:.4f} that it is one person, where {prior:g} of "
                "all pairs are one person's"
            )
    return 0 if answer.same else 1


def _identify(options: argparse.Namespace) -> int:
    import numpy as np

    from spherekeras.errors import DataError
    from spherekeras.evaluation.crops import list_pictures
    from spherekeras.search import Gallery

    people = list_pictures(options.gallery, 2, "`<person>/<picture>.jpg`")
    faces = _load(options)
    chosen = faces.threshold(options.far, options.threshold)  # told before the work
    given, far = chosen["threshold"], chosen["far"]
    probe = faces.embed(options.probe)
    paths, crops, failed = _crops(faces, [str(p) for p in people])
    for reason in failed:
        print(f"left out: {reason}", file=sys.stderr)
    if not crops:
        raise DataError(
            f"No face was found in any of the {len(people)} pictures of {options.gallery}."
        )
    names = [pathlib.Path(path).parent.name for path in paths]
    [ranked] = Gallery(faces.embed(np.stack(crops)), names).identify(probe, 5)
    if options.json:
        print(json.dumps({"ranked": ranked, "threshold": given, "far": far}, indent=1))
    else:
        for person, similarity in ranked:
            mark = "*" if similarity >= given else " "
            print(f"{mark} {similarity:.4f}  {person}")
        rate = ""
        if far is not None:
            rate = (
                f" at FAR {far:g} of one comparison: a stranger meets {len(crops)} pictures here, "
                "any of which may reach it"
            )
        print(f"* reaches the threshold {given:.4f}{rate}")
    return 0 if ranked[0][1] >= given else 1


def _export(options: argparse.Namespace) -> None:
    from spherekeras import export
    from spherekeras.errors import ExportError

    crops = None
    if options.representative and options.out.endswith((".onnx", ".tflite")):
        import numpy as np

        from spherekeras import presets, teacher
        from spherekeras.data.records import open_records

        records = open_records(options.representative)
        config = presets.read_config(presets.find_preset(options.preset))
        chosen = np.arange(0, len(records), max(1, len(records) // 200))
        crops = teacher.turned(records, chosen, config)
    if options.out.endswith(".onnx"):
        if options.quantization != "float32":
            raise ExportError("`--quantization` is TFLite's. Leave it out.")
        report = export.to_onnx(
            options.preset,
            options.out,
            layout=options.layout,
            pixels=options.pixels,
            template=options.crop,
            representative=crops,
        )
    elif options.out.endswith(".tflite"):
        if (options.layout, options.pixels, options.crop) != ("NHWC", "float32", None):
            raise ExportError("`--layout`, `--pixels` and `--crop` are ONNX's. Leave them out.")
        if options.quantization == "int8" and not options.representative:
            raise ExportError("int8 needs `--representative RECORDS`, crops to calibrate on.")
        report = export.to_tflite(
            options.preset, options.out, options.quantization, representative=crops
        )
    else:
        raise ExportError(f"`--out` ends in .tflite or .onnx. Received: {options.out}.")
    _show(options, report.to_dict(), str(report))


def _zoo_list(options: argparse.Namespace) -> None:
    from spherekeras import presets, zoo

    rows = zoo.rows(options.pattern)
    _show(options, rows, zoo.text_table(rows))
    if not rows:
        print(presets.known_presets(()), file=sys.stderr)


def _zoo_fetch(options: argparse.Namespace) -> None:
    from spherekeras import zoo

    folders = []
    with _aside(options):
        for word in options.preset:
            for name in zoo.spelled(word):
                folders.append(str(zoo.fetch(name)))
                print(folders[-1], flush=True)
    if options.json:
        print(json.dumps({"folders": folders}, indent=1))


def _zoo_manifest(options: argparse.Namespace) -> None:
    from spherekeras import zoo

    path = zoo.write_manifest(options.zoo, options.url, options.out)
    _show(options, {"manifest": str(path)}, f"Manifest in {path}.")


def _zoo_show(options: argparse.Namespace) -> int:
    from spherekeras import presets, zoo
    from spherekeras.errors import PresetError

    known, status = [], 0
    pattern = zoo.is_pattern(options.preset)
    find = presets.named if pattern else presets.find_preset
    for name in zoo.spelled(options.preset):
        try:
            folder = find(name)
            presets.check_files(folder)
        except PresetError as error:
            if not pattern:
                raise
            print(f"left out: {error}", file=sys.stderr)
            status = 1
            continue
        if options.json:
            metadata = presets.read_metadata(folder)
            known.append({"preset": str(folder), "metadata": metadata})
        else:
            print((folder / "README.md").read_text(encoding="utf-8"))
    if options.json:
        print(json.dumps(known, indent=1))
    return status


def _zoo_check(options: argparse.Namespace) -> int:
    with _quiet():
        from spherekeras import zoo

    known = []
    with _aside(options):
        for name, verdict, good in zoo.check(options.preset):
            known.append({"preset": name, "good": good, "verdict": verdict})
            print(f"{'good' if good else 'BAD '}  {name}: {verdict}", flush=True)
    if options.json:
        print(json.dumps(known, indent=1))
    return 0 if all(row["good"] for row in known) else 1


def _zoo_publish(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras import presets, publishing
        from spherekeras.data.records import open_records

    people = open_records(options.people) if options.people else None
    with _progress("photographs") as progress:
        places = (presets.find_preset(options.preset), pathlib.Path(options.out))
        carried = any((place / presets.TFLITE).is_file() for place in places)
        folder = publishing.publish(
            options.preset, options.out, options.data, _detector(options), people, progress
        )
    if carried and not (folder / presets.TFLITE).is_file():
        print(
            f"Its {presets.TFLITE} told of other numbers and is not in {folder}. Make it anew: "
            f"`spherekeras zoo files {folder} --data LFW --people RECORDS`.",
            file=sys.stderr,
        )
    _show_preset(options, folder)


def _zoo_files(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras import exported
        from spherekeras.data.records import open_records

    people, detector = open_records(options.people), _detector(options)
    with _progress("photographs") as progress:
        folder = exported.measure_files(options.preset, options.data, people, detector, progress)
    _show_preset(options, folder)


def _zoo_cards(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras import zoo_pages

    with _aside(options):
        changed = zoo_pages.write_cards(options.zoo, options.latency, say=print)
    text = f"Cards written: {', '.join(changed) or 'none, all were up to date'}."
    _show(options, {"written": changed}, text)


def _zoo_compare(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras import zoo

    rows = zoo.compare(options.pattern)
    _show(options, rows, zoo.text_table(rows))


def _zoo_convert(options: argparse.Namespace) -> None:
    with _quiet():
        from spherekeras import presets, zoo

        folder = zoo.convert(options.file, options.kind, options.out, options.network)
    left_out = presets.read_metadata(folder)["converted_from"]["left_out"]
    text = f"Left out: {', '.join(left_out)}.\n" if left_out else ""
    written = {"preset": str(folder), "left_out": left_out}
    _show(options, written, f"{text}Preset in {folder}.")


def _show(options: argparse.Namespace, values: Any, text: str) -> None:
    """Prints a result: as JSON where that was asked for, else as text."""
    print(json.dumps(values, indent=1) if options.json else text)


def _show_preset(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Prints a preset's card, or as JSON what is known of it."""
    from spherekeras import presets

    values = {"preset": str(folder), "metadata": presets.read_metadata(folder)}
    _show(options, values, (folder / "README.md").read_text(encoding="utf-8"))


def _aside(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """What work prints as it gets on goes to stderr where stdout is to hold JSON alone."""
    return contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout)


def _load(options: argparse.Namespace, lazy: bool = False) -> Any:
    """The preset of the command line, with its detector; `lazy` loads the usual one when needed."""
    from spherekeras import presets
    from spherekeras.embedder import FaceEmbedder

    name = options.preset
    if name is None:
        known = presets.list_presets()
        if not known:
            raise SphereKerasError(
                "No preset is installed. Name one with `--preset`: a folder, or a name that "
                "`spherekeras zoo list` shows; or set SPHEREKERAS_ZOO to a folder of presets."
            )
        name = str(presets.named(presets.most_accurate(known)))
    usual = options.detector == "auto" and not options.detector_model
    runtime = options.runtime
    if name.endswith(".tflite"):
        if runtime == "keras":
            raise SphereKerasError(f"{name} runs on LiteRT. Leave `--runtime keras` out.")
        return FaceEmbedder.from_tflite(name, None if lazy and usual else _detector(options))
    runtime = runtime or options.preset_runtime
    folder = presets.find_preset(name)
    presets.check_files(folder)  # told before TensorFlow loads
    if runtime == "auto":
        runtime = "litert" if (folder / presets.TFLITE).is_file() else "keras"
    with contextlib.nullcontext() if runtime == "litert" else _quiet():
        detector = None if lazy and usual else _detector(options)
        return FaceEmbedder.from_preset(name, detector, runtime)


def _detector(options: argparse.Namespace) -> Any:
    from spherekeras.data.detection import load_detector

    return load_detector(options.detector, options.detector_model)


def _crops(faces: Any, paths: Sequence[str]) -> tuple[list[str], list[Any], list[str]]:
    """The crops of the pictures that have a face, and why the others failed."""
    good, crops, failed = [], [], []
    with _progress("photographs") as progress:
        for number, path in enumerate(paths, 1):
            try:
                crops.append(faces.crop(path))
                good.append(path)
            except SphereKerasError as error:
                failed.append(str(error))
            progress(number, len(paths))
    return good, crops, failed


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on stderr with rate and time left, where stderr is a terminal."""
    started, shown = time.monotonic(), 0.0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - shown < 0.2 and done < total):
            return
        shown = now
        rate = done / max(now - started, 1e-9)
        left = (total - done) / rate if rate else 0.0
        sys.stderr.write(f"\r{what} {done:,}/{total:,}  {rate:,.0f}/s  {left:,.0f} s left  ")
        sys.stderr.flush()

    try:
        yield progress
    finally:
        if shown:
            sys.stderr.write("\n")


@contextlib.contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Keeps what the picture decoders' C code says about damaged files off the terminal.

    Python's own standard error goes on as before.
    """
    kept, python = os.dup(2), sys.stderr
    nowhere = os.open(os.devnull, os.O_WRONLY)
    python.flush()
    with open(kept, "w", encoding=python.encoding, errors=python.errors) as terminal:
        sys.stderr = terminal
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)
            sys.stderr = python


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow's start-up chatter, which is not Python's, off the terminal."""
    with silenced():
        import keras  # noqa: F401

        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        yield
