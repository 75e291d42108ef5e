"""The zoo: presets listed, checked, and published with their measurements."""

import fnmatch
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spherekeras import hosting, presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError, SphereKerasError
from spherekeras.files import atomic_path, sha256

_STATED = ("backbone", "parameters", "multiplications", "lfw", "milliseconds")
_COLUMNS = ("name", *_STATED, "megabytes", "place")
_NUMBERS = ("lfw_accuracy", "lfw_interval")  # for programs: a share, and its 95 % interval
_TERMS = ("weights_licence", "terms")
# sha256 of dlib_face_recognition_resnet_model_v1.dat, as its author publishes it
_DLIB = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


def rows(patterns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns one row a preset: size, LFW accuracy, milliseconds of a crop, place and terms.

    Args:
        patterns: of names, with wildcards; by default all.

    Raises:
        PresetError: a pattern fits no name.
    """
    hosted = hosting.manifest()
    here = presets.list_presets()
    return [
        row(presets.places(name)[0]) if name in here else _hosted_row(name, hosted[name])
        for name in names(patterns)
    ]


def names(patterns: Sequence[str] = ()) -> list[str]:
    """Returns the names of presets, here or in the manifest, that fit patterns.

    Args:
        patterns: of names, with wildcards; by default all.

    Raises:
        PresetError: a pattern fits no name.
    """
    known = sorted({*presets.list_presets(), *hosting.manifest()})
    wanted: set[str] = set()
    for pattern in patterns or ["*"]:
        fitting = fnmatch.filter(known, pattern)
        if patterns and not fitting:
            raise PresetError(f"No preset's name fits {pattern!r}. {presets.known_presets(known)}")
        wanted.update(fitting)
    return sorted(wanted)


def spelled(name: str) -> list[str]:
    """Returns the presets that a word of the command line means: a name, a folder, or a pattern.

    Raises:
        PresetError: a pattern fits no name.
    """
    return names([name]) if is_pattern(name) else [name]


def is_pattern(word: str) -> bool:
    """Returns whether a word of the command line is a pattern of names, not a name or a folder."""
    return any(mark in word for mark in "*?[") and not os.path.isdir(word)


def fetch(name: str) -> pathlib.Path:
    """Returns the folder of a preset; one of the manifest is brought into the cache, or renewed.

    Raises:
        PresetError: unknown, not to be had, or damaged and in no manifest.
    """
    hosted = hosting.manifest()
    if name in hosted:
        return hosting.fetch(name, hosted[name])
    folder = presets.named(name)
    presets.check_files(folder)
    return folder


def write_manifest(
    zoo: str | os.PathLike[str], url: str, out: str | os.PathLike[str]
) -> pathlib.Path:
    """Writes the manifest of a zoo that a server shows under `url`, for `SPHEREKERAS_MANIFEST`.

    Args:
        zoo: folder of presets; each is checked.
        url: where the server shows that folder, such as "https://example.org/zoo".
        out: the manifest, a .json file.

    Returns:
        `out`.

    Raises:
        PresetError: no preset, a damaged one, a name that no URL should have, or a `url` that is
            not http(s).
    """
    presets.check_folder(zoo)
    if not re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?", url):
        raise PresetError(
            "`url` is where the server shows the zoo, such as https://example.org/zoo, without "
            f"query or fragment, other signs written as %20. Received: {url!r}."
        )
    listed = {}
    for folder in sorted(path for path in pathlib.Path(zoo).iterdir() if path.is_dir()):
        if not presets.is_preset(folder):
            continue
        if not hosting.NAME.fullmatch(folder.name):
            raise PresetError(
                f"{folder} cannot be served under this name. Rename it: letters, digits, '.', '_' "
                "and '-', the first a letter or digit."
            )
        presets.check_files(folder)
        row = _sound_row(folder)
        listed[folder.name] = {
            **{key: row[key] for key in (*_STATED, *_NUMBERS, *_TERMS)},
            "files": {
                name: {
                    "url": f"{url.rstrip('/')}/{folder.name}/{name}",
                    "size": (folder / name).stat().st_size,
                    "sha256": sha256(folder / name),
                }
                for name in presets.files_of(folder)
            },
        }
    if not listed:
        raise PresetError(f"{zoo} holds no preset. Expected a folder with a folder a preset.")
    value = {"format": 1, "presets": listed}
    hosting.entries(value, out)
    with atomic_path(out) as temporary:
        temporary.write_text(presets.to_json(value), encoding="utf-8")
    return pathlib.Path(out)


def compare(patterns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns the rows of sound presets that are here, their latency measured side by side.

    Adds "here", the milliseconds of one crop (see `latency.latencies`), and "ratio", these over
    the fastest preset's.

    Raises:
        PresetError: none of them is here and sound.
    """
    from spherekeras.latency import latencies

    found = [row for row in rows(patterns) if row["place"] in ("zoo", "cache")]
    if not found:
        raise PresetError("None of these presets is here. Fetch one: `spherekeras zoo fetch NAME`.")
    times = latencies([presets.named(row["name"]) for row in found])
    return [
        {**row, "here": round(time, 2), "ratio": round(time / min(times), 2)}
        for row, time in zip(found, times, strict=True)
    ]


def text_table(table: Sequence[dict[str, Any]]) -> str:
    """Returns rows as aligned text."""
    if not table:
        return "The zoo is empty."
    columns = [*_COLUMNS, *(name for name in ("here", "ratio") if name in table[0])]
    cells = [columns, *([text(row[column], column) for column in columns] for row in table)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def text(value: Any, column: str) -> str:
    """Returns one cell of a table of presets.

    Example:

    >>> text(189408256, "multiplications"), text(None, "lfw")
    ('189M', '-')
    """
    if value is None or value == "":
        return "-"
    if column == "multiplications":
        return f"{value / 1e6:.0f}M"
    return f"{value:,}" if column == "parameters" else str(value)


def check(patterns: Sequence[str] = ()) -> Iterator[tuple[str, str, bool]]:
    """Checks files and golden vectors of presets; yields (name, verdict, good) for each.

    A preset that lies in several places is checked in each; its name is then the folder.

    Args:
        patterns: names with wildcards, or folders; by default all of the zoo.

    Raises:
        PresetError: there is none to check, or a pattern fits no name.
    """
    known = presets.list_presets()
    wanted: dict[str | pathlib.Path, str] = {}  # by what is loaded, what it is called
    for pattern in patterns or ["*"]:
        fitting = fnmatch.filter(known, pattern)
        if not fitting and is_pattern(pattern):
            none = f"No name of a preset that is here fits {pattern!r}. " if patterns else ""
            hosted = sorted(hosting.manifest())
            there = f"To be fetched: {', '.join(hosted)} (`spherekeras zoo fetch NAME`)."
            raise PresetError(none + (there if hosted else presets.known_presets(known)))
        for name in fitting:
            places = presets.places(name)
            wanted |= {folder: name if len(places) == 1 else str(folder) for folder in places}
        wanted |= {} if fitting else {pattern: pattern}
    for preset, name in wanted.items():
        try:
            yield name, _checked(preset), True
        except SphereKerasError as error:
            yield name, str(error), False


def _checked(preset: str | pathlib.Path) -> str:
    faces = FaceEmbedder.from_preset(preset)
    verdict = f"files intact, golden vectors within {faces.check_golden():.1g}"
    carries = faces.folder and (faces.folder / presets.TFLITE).is_file()
    if carries and faces.config.mirror == "none":
        light = FaceEmbedder.from_preset(preset, runtime="litert")
        verdict += f", on LiteRT within {light.check_golden():.1g}"
    return verdict


def convert(
    file: str | os.PathLike[str],
    kind: str,
    out: str | os.PathLike[str],
    network: str | None = None,
) -> pathlib.Path:
    """Turns another library's weight file into a preset, with the preprocessing that it needs.

    Args:
        file: the weights.
        kind: whose they are: "caffe" (the SphereFace authors' release), "clcarwin", "dlib" or
            "opensphere".
        out: the preset's folder, which must be new; its name becomes the preset's.
        network: the network's name in OpenSphere's config.yml, where the weights do not tell.

    Returns:
        That folder. What the file holds beside the backbone is left out, and named in the
        metadata's `converted_from`. A preset keeps weights in float16, so its embeddings differ
        from the original's by some 3e-4 of their length; the converters' own models do not.

    Raises:
        DataError: the file is not what `kind` says.
        PresetError: another kind; a network's name for one that is not of OpenSphere; or `out`
            is there already.
    """
    from spherekeras import converters

    kinds = {
        "caffe": converters.convert_caffe,
        "clcarwin": converters.convert_clcarwin,
        "dlib": _converted_dlib,
        "opensphere": lambda file: converters.convert_opensphere(file, network),
    }
    if kind not in kinds:
        raise PresetError(f"`convert` knows {', '.join(kinds)}. Received: {kind!r}.")
    if network and kind != "opensphere":
        raise PresetError(f"A network is named for opensphere alone. Received: {network!r}.")
    folder = pathlib.Path(out).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PresetError(f"{out} is there already and is left as it is. Give `out` a new name.")
    if not folder.name:
        raise PresetError(f"The preset takes the name of its folder. Received: out={str(out)!r}.")
    converted = kinds[kind](file)
    metadata = {
        **converted.metadata,
        "name": folder.name,
        "converted_from": {
            "file": pathlib.Path(file).name,
            "sha256": sha256(file),
            "left_out": list(converted.left_out),
        },
    }
    config = presets.PresetConfig(**converted.config)
    return FaceEmbedder(converted.model, config).save_preset(out, metadata=metadata)


def _converted_dlib(file: str | os.PathLike[str]) -> Any:
    from spherekeras import converters

    model = converters.convert_dlib(file)
    widths = [model.get_layer(f"stage{n}_block1_conv1").filters for n in range(1, 6)]
    other = {} if widths == [32, 64, 128, 256, 256] else {"widths": widths}
    config = {
        "backbone": "DlibResNet",
        "arguments": {
            "embedding_dim": model.output_shape[-1],
            "input_shape": [150, 150, 3],
            **other,
        },
        "template": "dlib_150x150",
        "height": 150,
        "width": 150,
        "scale": 1 / 128,
        "offset": 127.5,
    }
    if sha256(file) != _DLIB:
        metadata = {
            "description": "A network of the form of dlib's face recognition ResNet, converted.",
            "weights_licence": "unknown: this is not the file that dlib publishes",
            "code_licence": "Apache-2.0",
        }
        return converters.Converted(model, config, metadata)
    metadata = {
        "description": "dlib's face recognition ResNet, converted; this project did not train it.",
        "weights_licence": "CC0-1.0 (dlib_face_recognition_resnet_model_v1, Davis King)",
        "code_licence": "Apache-2.0",
        "terms": "None on the weights. Trained by their author on about 3 million faces of 7,485 "
        "people, half of them from VGG Face and FaceScrub, with a metric loss on distances.",
        "overlap": "Its author states that people of LFW were left out of the training data; "
        "nobody else can check that.",
        "intended_use": "A strong network for verification, and a teacher for small ones.",
        "limits": "Embeddings share a large common part: compare with the preset's thresholds, "
        "which lie high. Not for decisions about people. Accuracy over groups of people has not "
        "been measured.",
    }
    return converters.Converted(model, config, metadata)


def row(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the row of a preset's folder; of a damaged one, what is wrong with it."""
    try:
        return _sound_row(folder)
    except (AttributeError, KeyError, OSError, PresetError, TypeError, ValueError) as error:
        damage = error if isinstance(error, PresetError) else f"{type(error).__name__} {error}"
        blank = dict.fromkeys((*_COLUMNS, *_NUMBERS, *_TERMS))
        return {**blank, "name": folder.name, "lfw": f"damaged: {damage}", "place": "damaged"}


def _sound_row(folder: pathlib.Path) -> dict[str, Any]:
    metadata, config = presets.read_metadata(folder), presets.read_config(folder)
    measured = {metric["name"]: metric for metric in metadata.get("metrics", [])}
    view_2 = measured.get("LFW view 2", {})
    kind = config.arguments.get("depth") or config.arguments.get("activation")
    return {
        "name": folder.name,
        "backbone": f"{config.backbone}{f'({kind})' if kind else ''}",
        "parameters": metadata.get("parameters"),
        "multiplications": metadata.get("multiplications"),
        "megabytes": round((folder / "model.weights.h5").stat().st_size / 1e6, 1),
        "lfw": view_2.get("value"),
        "lfw_accuracy": view_2.get("accuracy"),
        "lfw_interval": view_2.get("intervals", {}).get("accuracy"),
        "milliseconds": metadata["latency"]["milliseconds"] if "latency" in metadata else None,
        "place": "cache" if hosting.is_cached(folder) else "zoo",
        "weights_licence": metadata.get("weights_licence", "not stated"),
        "terms": metadata.get("terms", "not stated"),
    }


def _hosted_row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    size = entry["files"].get("model.weights.h5", {}).get("size", 0)
    return {
        "name": name,
        "megabytes": round(size / 1e6, 1),
        "place": "to be fetched",
        **{key: entry.get(key) for key in (*_STATED, *_NUMBERS, *_TERMS)},
    }
