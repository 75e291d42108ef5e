"""A preset is a folder that cannot lie.

`config.json` holds all that is needed to compute, `metadata.json` all that is known,
`recipe.toml` what trained it, `model.weights.h5` the weights in float16, `golden.npz` two inputs
and their embeddings, `README.md` the card, `SHA256SUMS` a checksum over each of the others,
checked at every load. `model.tflite`, where it is there, is the same network for LiteRT: then the
preset runs without Keras. Two saves of the same weights are byte-identical.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from spherekeras import hosting
from spherekeras.errors import PresetError
from spherekeras.files import atomic_path, sha256

FILES = (
    "README.md",
    "config.json",
    "golden.npz",
    "metadata.json",
    "model.weights.h5",
    "recipe.toml",
)
TFLITE = "model.tflite"
SUMS = hosting.SUMS
MEASURED = (
    "calibration",
    "files",
    "held_out",
    "latency",
    "measured",
    "metrics",
    "thresholds",
    "versions",
)
_TOLD = (  # of the metadata, in an exported file
    "name",
    "changed_from",
    "description",
    "weights_licence",
    "terms",
    "intended_use",
    "limits",
    "overlap",
    "thresholds",
    "calibration",
)
BACKBONES = ("DlibResNet", "IResNet", "MobileFaceNet", "SFNet", "SphereFaceNet")


@dataclasses.dataclass(frozen=True)
class PresetConfig:
    """All that is needed to compute an embedding.

    Attributes:
        backbone: function of `spherekeras.backbones`.
        arguments: of that function.
        template: of the alignment, a name of `spherekeras.data.alignment.TEMPLATES`.
        height, width: of the crop, in pixels.
        scale, offset: a pixel becomes `(pixel - offset) * scale`.
        channel_order: "RGB" or "BGR", what the backbone takes. Users always give RGB.
        mirror: how the mirrored crop's embedding is joined: "none", "sum" or "concat".
    """

    backbone: str
    arguments: dict[str, Any]
    template: str
    height: int
    width: int
    scale: float
    offset: float
    channel_order: str = "RGB"
    mirror: str = "none"

    def __post_init__(self) -> None:
        from spherekeras.data.alignment import TEMPLATES

        numbers = (self.scale, self.offset)
        real = all(type(n) in (int, float) and abs(n) <= sys.float_info.max for n in numbers)
        rules = {
            f"`backbone` is one of {', '.join(BACKBONES)}": self.backbone in BACKBONES,
            "`arguments` is a table": isinstance(self.arguments, dict),
            f"`template` is one of {', '.join(TEMPLATES)}": self.template in TEMPLATES,
            "`height` and `width` are whole numbers": type(self.height) is type(self.width) is int,
            "`scale` and `offset` are finite numbers, `scale` not 0": real and self.scale != 0,
            "`channel_order` is RGB or BGR": self.channel_order in ("RGB", "BGR"),
            "`mirror` is none, sum or concat": self.mirror in ("none", "sum", "concat"),
        }
        for rule, holds in rules.items():
            if not holds:
                raise PresetError(f"A preset's config is wrong: {rule}. Received: {self}.")
        shape = list(self.arguments.get("input_shape", (112, 96, 3)))
        if shape != [self.height, self.width, 3]:
            raise PresetError(
                f"A preset's config contradicts itself: the crop is {self.height}x{self.width}, "
                f"the backbone's input_shape {shape}."
            )


def list_presets() -> list[str]:
    """Returns the names of the presets in `$SPHEREKERAS_ZOO`, the checkout's zoo/ and the cache.

    Example:

    >>> import spherekeras as sk
    >>> isinstance(sk.list_presets(), list)
    True
    """
    found = {
        folder.name
        for zoo in _zoos()
        if zoo.is_dir()
        for folder in zoo.iterdir()
        if is_preset(folder)
    }
    return sorted(found)


def is_preset(folder: pathlib.Path) -> bool:
    """Returns whether a folder is a preset's, be it a damaged one."""
    return (folder / "config.json").is_file() or (folder / SUMS).is_file()


def places(name: str) -> list[pathlib.Path]:
    """Returns every folder that holds a preset of a name; the first is the one that is loaded."""
    if os.path.basename(name) != name or name in ("", ".", ".."):  # a path is no name
        return []
    folders = [zoo / name for zoo in _zoos() if is_preset(zoo / name)]
    return list({folder.resolve(): folder for folder in folders[::-1]}.values())[::-1]


def find_preset(name_or_folder: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the folder of a preset, by path or, where no preset lies there, by name.

    Raises:
        PresetError: see `named`.
    """
    path = pathlib.Path(os.path.abspath(name_or_folder))  # whatever the working directory becomes
    return path if is_preset(path) else named(os.fspath(name_or_folder))


def named(name: str) -> pathlib.Path:
    """Returns the folder of the preset of a name, whatever the working directory holds.

    It is looked up in `$SPHEREKERAS_ZOO`, the checkout's zoo/, the cache and, last, the manifest
    of `spherekeras.hosting`, by which it is downloaded into the cache.

    Raises:
        PresetError: there is none, and the nearest name is suggested; or it did not come.
    """
    if found := places(name):
        return found[0]
    hosted = hosting.manifest()
    if name in hosted:
        return hosting.fetch(name, hosted[name])
    known = sorted({*list_presets(), *hosted})
    nearest = difflib.get_close_matches(name, known, 1, 0.3)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    what = "neither a preset folder nor a name in the zoo"
    if is_preset(pathlib.Path(os.path.abspath(name))):
        what = f"a folder, not a name in the zoo (`spherekeras zoo check {name}` checks a folder)"
    raise PresetError(f"Unknown preset {name!r}: {what}.{hint} {known_presets(known)}")


def most_accurate(names: Sequence[str]) -> str:
    """Returns the preset with the highest published accuracy on LFW view 2, else the first.

    Where Keras is not installed, presets that carry a TFLite file come before all others.
    """
    if importlib.util.find_spec("keras") is None:
        names = [name for name in names if (named(name) / TFLITE).is_file()] or names

    def accuracy(name: str) -> float:
        try:
            metrics = read_metadata(named(name)).get("metrics", [])
            return max((m["accuracy"] for m in metrics if m["name"] == "LFW view 2"), default=0.0)
        except (KeyError, PresetError, TypeError):
            return 0.0

    return max(names, key=accuracy)


def known_presets(names: Sequence[str]) -> str:
    """Returns the sentence that names presets, or says where to get some."""
    if names:
        return f"Known presets: {', '.join(names)}."
    return (
        "No presets are here, nor can any be downloaded: they come with the repository. Set "
        "SPHEREKERAS_ZOO to a copy of its zoo/, or SPHEREKERAS_MANIFEST to the manifest of a "
        "server that has presets."
    )


def check_folder(zoo: str | os.PathLike[str]) -> None:
    """Checks that a zoo is a folder at all.

    Raises:
        PresetError: it is none.
    """
    if not os.path.isdir(zoo):
        raise PresetError(
            f"{os.fspath(zoo)} is no folder. Give the one that holds the presets' folders."
        )


def check_place(folder: pathlib.Path) -> None:
    """Finds out whether a preset may be saved in a folder.

    Raises:
        PresetError: it would replace the files of something that is no preset, it is the folder of
            a downloaded preset, in the cache, or it has no name.
    """
    if hosting.is_cached(folder):
        raise PresetError(
            f"{folder} is the place of a downloaded preset: the next `spherekeras zoo fetch` "
            "would put the original there again. Give another folder."
        )
    if not folder.resolve().name:
        raise PresetError(f"A preset takes the name of its folder. Received: {folder}.")
    others = [name for name in (*FILES, SUMS, TFLITE) if os.path.lexists(folder / name)]
    if others and not _is_own(folder):
        raise PresetError(
            f"{folder} is no preset, and its {others[0]} would be replaced. Give a new folder, or "
            "move that file away."
        )


def _is_own(folder: pathlib.Path) -> bool:
    """Whether a folder is a preset's, a half-written one's too, and not merely looks so."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if "  model.weights.h5\n" in (folder / SUMS).read_text(encoding="ascii"):
            return True
    with contextlib.suppress(PresetError):
        return bool(read_config(folder))
    return False


def check_files(folder: pathlib.Path, but: str = "") -> None:
    """Checks every file of a preset against `SHA256SUMS`.

    Args:
        folder: the preset's.
        but: a file that may differ.

    Raises:
        PresetError: a file is missing or changed; the sentence names it.
    """
    try:
        _check_files(folder, but)
    except _Stray as error:  # another download would leave it there
        raise PresetError(f"{error} Delete that file; nothing was loaded.") from None
    except PresetError as error:
        raise PresetError(f"{error} {_again(folder)}; nothing was loaded.") from None


class _Stray(PresetError):
    """A file lies in a preset's folder that is not of the preset."""


def _again(folder: pathlib.Path) -> str:
    fetch = f"`spherekeras zoo fetch {folder.name}` mends it"
    if not hosting.is_cached(folder):
        return "Bring it again from where it came"
    with contextlib.suppress(PresetError):  # a bad manifest is not what is told of here
        if folder.name in hosting.manifest():
            return fetch
    return f"Set SPHEREKERAS_MANIFEST to the manifest that it came from; then {fetch}"


def _check_files(folder: pathlib.Path, but: str) -> None:
    try:
        *lines, end = (folder / SUMS).read_bytes().decode("ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        raise PresetError(
            f"{folder / SUMS} is missing or cannot be read as a list of checksums."
        ) from None
    sums = {}
    for line in (*lines, *([end] if end else [])):
        match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+)", line)
        if not match:
            raise PresetError(f"{folder / SUMS} is damaged at the line {line[:90]!r}.")
        sums[match[2]] = match[1]
    for name in sorted({*files_of(folder), *sums}):
        if name not in sums:
            kind = _Stray if name == TFLITE else PresetError
            raise kind(f"{folder / SUMS} has no line for {name}.")
        if name != but and not (folder / name).is_file():
            raise PresetError(f"{folder / name}, which {SUMS} names, is missing.")
        try:
            same = name == but or sha256(folder / name) == sums[name]
        except OSError as error:
            raise PresetError(f"{folder / name} cannot be read: {error.strerror}.") from None
        if not same:
            raise PresetError(
                f"{folder / name} does not match its line in {SUMS}: one of the two was changed."
            )


def files_of(folder: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of a preset's files, less the checksums."""
    return (*FILES, TFLITE) if (folder / TFLITE).is_file() else FILES


def read_config(folder: pathlib.Path) -> PresetConfig:
    """Reads `config.json`."""
    values = _json(folder / "config.json")
    if values.pop("format", None) != 1:
        raise PresetError(
            f"{folder / 'config.json'} is of a format this version cannot read. Update spherekeras."
        )
    return config_of(values, folder / "config.json")


def config_of(values: dict[str, Any], path: str | os.PathLike[str]) -> PresetConfig:
    """Returns the config that was read from `path`.

    Raises:
        PresetError: a wrong key or value; the sentence names `path`.
    """
    try:
        return PresetConfig(**values)
    except TypeError as error:
        raise PresetError(f"{os.fspath(path)} has a wrong key: {error}.") from None
    except PresetError as error:
        raise PresetError(f"{os.fspath(path)}: {error}") from None


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `metadata.json`."""
    return _json(folder / "metadata.json")


def unmeasured(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns metadata less what was measured with other weights.

    Args:
        metadata: of a preset.
    """
    return {key: value for key, value in metadata.items() if key not in MEASURED}


def changed(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns what still holds of a preset's metadata once its weights were changed.

    What trained them and on whom is no longer the whole story: name, description, statement of
    overlap and training go, and `changed_from` tells where the weights began. Licence, terms,
    intended use and limits stay.

    Args:
        metadata: of the preset.
    """
    story = ("name", "description", "trained_on", "converted_from", "overlap", "changed_from")
    kept = {key: value for key, value in unmeasured(metadata).items() if key not in story}
    trained = trained_on(metadata)
    origin = {"name": metadata.get("name", ""), **({"trained_on": trained} if trained else {})}
    return {**kept, "changed_from": origin}


def trained_on(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns what is known of a preset's training, or of that which changed weights began with."""
    before = metadata.get("changed_from", {})
    return dict(metadata.get("trained_on") or before.get("trained_on") or {})


def subtracts_mean(metadata: dict[str, Any]) -> bool:
    """Whether the mean embedding is subtracted where a preset is measured on LFW.

    It is chosen on view 1 when a preset is published; else it is, as the SphereFace release does.

    Args:
        metadata: of the preset, or what an exported file tells of it.
    """
    for metric in metadata.get("metrics", []):
        if metric.get("name") == "LFW view 2":
            return bool(metric.get("subtract_mean", True))
    return bool(metadata.get("subtract_mean", True))


def same_weights(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Whether two weight files hold the same numbers, however they are laid out."""
    import h5py

    def arrays(path: pathlib.Path) -> dict[str, Any]:
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
        return found

    try:
        one, other = arrays(first), arrays(second)
    except OSError:
        return False
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def note_of(
    config: PresetConfig, metadata: dict[str, Any], stamp: dict[str, str], quantization: str
) -> dict[str, Any]:
    """Returns what an exported file says of the preset that it was made from.

    Args:
        config: of the preset.
        metadata: of the preset. Thresholds that were measured through such a file take the place
            of the float network's, whose calibration an integer file does not tell.
        stamp: of the preset, or none.
        quantization: of the file.
    """
    told = {key: metadata[key] for key in _TOLD if key in metadata}
    if metadata.get("metrics"):
        told["subtract_mean"] = subtracts_mean(metadata)
    if quantization in ("dynamic", "int8"):
        told.pop("calibration", None)
    for row in metadata.get("files", {}).get("rows", []):
        if row.get("quantization") == quantization:
            told["thresholds"] = row["thresholds"]
    return {
        "format": 1,
        "config": dataclasses.asdict(config),
        "metadata": json.loads(json.dumps(told)),
        "preset": stamp,
        "quantization": quantization,
    }


def stamp(folder: pathlib.Path) -> dict[str, str]:
    """Returns what a preset's numbers were measured with, so that stale ones are found out.

    Args:
        folder: the preset's.
    """
    return {name: sha256(folder / name) for name in ("model.weights.h5", "config.json")}


def build_backbone(config: PresetConfig) -> Any:
    """Returns the untrained backbone of a preset, a `keras.Model`."""
    try:
        from spherekeras import backbones
    except ModuleNotFoundError as error:
        raise PresetError(
            f"A preset as a Keras model needs {error.name}, which is not installed. Run `pip "
            "install 'spherekeras[tensorflow]'`, or load it with runtime='litert' where it carries "
            f"a {TFLITE}."
        ) from None

    try:
        return getattr(backbones, config.backbone)(**config.arguments)
    except (TypeError, ValueError) as error:
        raise PresetError(
            f"A preset's config does not build {config.backbone}({config.arguments}): {error}"
        ) from None


def read_weights(folder: pathlib.Path, config: PresetConfig) -> Any:
    """Returns the backbone with the preset's weights, in float32."""
    backbone = build_backbone(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", UserWarning
            )  # Keras only warns of weights that it leaves untrained
            backbone.load_weights(folder / "model.weights.h5")
    except (OSError, ValueError, KeyError, UserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise PresetError(
            f"{folder / 'model.weights.h5'} does not fit {config.backbone}: {reason}"
        ) from None
    return backbone


def write_weights(backbone: Any, path: pathlib.Path) -> None:
    """Writes weights in float16, the same bytes for the same weights."""
    import h5py

    with tempfile.TemporaryDirectory() as scratch:
        full = pathlib.Path(scratch) / "full.weights.h5"
        backbone.save_weights(full)
        with h5py.File(full) as source, h5py.File(path, "w", track_order=False) as target:

            def copy(name: str, item: Any) -> None:
                if name.split("/")[0] == "optimizer":  # of a backbone that was compiled
                    return
                if isinstance(item, h5py.Dataset):
                    value = item[()]
                    if item.dtype == np.float32:
                        if not np.all(np.abs(value) <= np.finfo(np.float16).max):
                            raise PresetError(
                                f"The weight {name} is not finite or does not fit float16; a "
                                "preset of it would be of no use. Train with a lower learning rate."
                            )
                        value = value.astype(np.float16)
                    target.create_dataset(name, data=value)
                else:
                    group = target.require_group(name)
                    for key, value in item.attrs.items():
                        group.attrs[key] = value

            source.visititems(copy)


def write_preset(folder: pathlib.Path, files: dict[str, Any]) -> None:
    """Writes a preset's files and, last, their checksums.

    Args:
        folder: the preset's folder; files already there are replaced one by one.
        files: for some or all of `FILES` and `TFLITE` a str, bytes, or a function that writes to a
            path; None for no file.

    `config.json`, by which a folder is a preset's, is the first to be there.
    """
    files = dict(sorted(files.items(), key=lambda file: file[0] == "config.json"))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as placing:  # all are written first, then placed, the sums last
        sums = placing.enter_context(atomic_path(folder / SUMS))
        written = {}
        gone = {name for name, content in files.items() if content is None}
        for name, content in files.items():
            if content is None:
                continue
            written[name] = placing.enter_context(atomic_path(folder / name))
            if callable(content):
                content(written[name])
            else:
                data = content.encode() if isinstance(content, str) else content
                written[name].write_bytes(data)
        names = sorted({*files_of(folder), *written} - gone)
        lines = [f"{sha256(written.get(name, folder / name))}  {name}\n" for name in names]
        sums.write_bytes("".join(lines).encode())
    for name in gone:
        (folder / name).unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """JSON with sorted keys, so that equal content is equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _zoos() -> list[pathlib.Path]:
    zoo = os.environ.get("SPHEREKERAS_ZOO")
    own = pathlib.Path(__file__).resolve().parent.parent / "zoo"
    cached = hosting.cache() / "presets"
    zoos = [pathlib.Path(zoo), own] if zoo else [own]
    return [*zoos, cached] if os.path.isdir(cached) else zoos  # False where it may not be read


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PresetError(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise PresetError(f"{path} does not hold a JSON object.")
    return value
