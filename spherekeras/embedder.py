"""From photographs to embeddings and answers: what a loaded preset does."""

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spherekeras import card, presets
from spherekeras.complexity import multiplications
from spherekeras.data import alignment, detection, images
from spherekeras.errors import ImageError, NoFaceError, PresetError
from spherekeras.litert import LiteRTModel
from spherekeras.presets import PresetConfig

Source = str | os.PathLike[str] | bytes | np.ndarray
RUNTIMES = ("keras", "litert")
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Verification:
    """The answer to "is this one person?".

    Attributes:
        similarity: cosine of the two embeddings, from -1 to 1.
        same: whether it reaches the threshold.
        threshold: the similarity from which two faces count as one person.
        far: the false accept rate that the threshold had on the data of `data`; None for a
            threshold given by the caller.
        data: where the threshold comes from.
        probability: that this is one person, where as many pairs are as the preset's calibration
            says (`metadata["calibration"]["prior"]`); None where the preset carries none.
    """

    similarity: float
    same: bool
    threshold: float
    far: float | None
    data: str
    probability: float | None = None


class FaceEmbedder:
    """A backbone with its alignment and preprocessing: photographs in, embeddings out.

    Args:
        backbone: a `keras.Model` from normalised crops `(n, height, width, 3)` to embeddings; or a
            `LiteRTModel` from RGB pixels 0..255 to embeddings of unit length, mirror rule included.
        config: crop, preprocessing, mirror rule.
        metadata: what is known of the weights, thresholds among it.
        detector: of faces, an object of `spherekeras.data.detection`; by default
            `load_detector("auto")` when the first photograph comes.

    Example:

    >>> import numpy as np, spherekeras as sk
    >>> from spherekeras.presets import PresetConfig
    >>> backbone = sk.backbones.SphereFaceNet(depth=4)
    >>> config = PresetConfig("SphereFaceNet", {"depth": 4}, "sphereface_112x96", 112, 96,
    ...                       1 / 128, 127.5)
    >>> faces = sk.FaceEmbedder(backbone, config)
    >>> faces.embed(np.zeros((2, 112, 96, 3), "uint8")).shape
    (2, 512)
    """

    def __init__(
        self,
        backbone: Any,
        config: PresetConfig,
        metadata: dict[str, Any] | None = None,
        detector: Any = None,
        folder: pathlib.Path | None = None,
    ) -> None:
        self.backbone = backbone
        self.config = config
        self.metadata = metadata or {}
        self.folder = folder
        self._detector = detector

    @classmethod
    def from_preset(
        cls,
        name_or_folder: str | os.PathLike[str],
        detector: Any = None,
        runtime: str = "keras",
    ) -> "FaceEmbedder":
        """Loads a preset by name or folder, every file checked against its checksum.

        Args:
            name_or_folder: such as "sphere10_asoftmax", or a folder's path.
            detector: see the class.
            runtime: "keras", or "litert" for the preset's TFLite file, which needs neither Keras
                nor TensorFlow and starts in a fraction of their time.

        Raises:
            PresetError: unknown or damaged, or without a TFLite file. Whether this machine computes
                what the golden vectors say is `check_golden`'s question.
        """
        if runtime not in RUNTIMES:
            raise PresetError(f"`runtime` is 'keras' or 'litert'. Received: {runtime!r}.")
        folder = presets.find_preset(name_or_folder)
        presets.check_files(folder)
        config = presets.read_config(folder)
        metadata = presets.read_metadata(folder)
        if runtime == "keras":
            return cls(presets.read_weights(folder, config), config, metadata, detector, folder)
        model = _read_file(folder, config)
        for key in ("thresholds", "calibration"):  # the file has its own
            metadata.pop(key, None)
        return cls(model, config, {**metadata, **model.note["metadata"]}, detector, folder)

    @classmethod
    def from_tflite(cls, path: str | os.PathLike[str], detector: Any = None) -> "FaceEmbedder":
        """Loads a file that `spherekeras.export.to_tflite` wrote from a preset.

        The file is all that is needed: crop, mirror rule, thresholds and terms are in it. It runs
        on LiteRT, without Keras and TensorFlow.

        Args:
            path: of the file.
            detector: see the class.

        Raises:
            PresetError: not there, damaged, or not written from a preset.

        Example::

            faces = sk.FaceEmbedder.from_tflite("face.tflite")
            faces.verify("a.jpg", "b.jpg").same
        """
        model = LiteRTModel(path)
        config = presets.config_of(model.note["config"], path)
        _check_shape(model, config, path)
        return cls(model, config, model.note["metadata"], detector)

    @property
    def unit_parts(self) -> bool:
        """Whether even the parts that a mirror rule joins have unit length, as on LiteRT."""
        return isinstance(self.backbone, LiteRTModel)

    @property
    def detector(self) -> Any:
        """The face detector, made when it is first needed."""
        if self._detector is None:
            self._detector = detection.load_detector()
        return self._detector

    @property
    def detector_name(self) -> str:
        """Name of the face detector."""
        return str(self.detector.name)

    def embed(self, images: Any) -> np.ndarray:
        """Returns embeddings of unit length, float32 `(n, dim)`.

        Args:
            images: a path or a list of paths of photographs (the face is found and aligned), or
                aligned crops as RGB uint8: one `(height, width, 3)` or a batch of them.

        Raises:
            NoFaceError: a photograph without a face.
            ImageError: a file that is no picture, or an array that is no crop.
        """
        if isinstance(images, np.ndarray) and images.ndim != 3:
            crops = images
        else:
            many = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
            sources = list(images) if many else [images]
            crops = np.zeros((len(sources), self.config.height, self.config.width, 3), np.uint8)
            for place, source in enumerate(sources):
                is_crop = isinstance(source, np.ndarray)
                crops[place] = self._checked(source) if is_crop else self.crop(source)
        return self.embed_crops(crops, mirror=self.config.mirror, normalize=True)

    def verify(
        self,
        a: Source,
        b: Source,
        far: float | None = None,
        threshold: float | None = None,
    ) -> Verification:
        """Says whether two faces are one person's.

        Args:
            a, b: photographs (paths) or aligned crops.
            far: false accept rate of the threshold to use, one that the preset carries; by
                default 1e-2 or the nearest that it has.
            threshold: a similarity of your own in place of the preset's.

        Raises:
            NoFaceError, ImageError: see `embed`.
            PresetError: the preset carries no threshold (at this FAR).
        """
        chosen = self.threshold(far, threshold)
        first, second = self.embed(a), self.embed(b)
        if len(first) != 1 or len(second) != 1:
            raise ImageError(
                f"`verify` compares one face with one face. Received: {len(first)} and "
                f"{len(second)}. For many pairs compare the rows of `faces.embed(...)`."
            )
        similarity = float(np.sum(first[0] * second[0]))
        return Verification(
            similarity,
            similarity >= chosen["threshold"],
            float(chosen["threshold"]),
            chosen["far"],
            chosen.get("data", "not stated"),
            self._probability(similarity),
        )

    def threshold(self, far: float | None = None, own: float | None = None) -> dict[str, Any]:
        """Returns the preset's threshold at a FAR, or your own: a dict with threshold, far, data.

        Args:
            far: as in `verify`.
            own: a similarity that takes the place of the preset's threshold.

        Raises:
            PresetError: the preset carries no threshold (at this FAR), or `own` is none.
        """
        if own is not None:
            if far is not None or not -2 <= own <= 2:
                raise PresetError(
                    "Give a FAR or a threshold (a similarity, from -2 to 2), not both. Received: "
                    f"far={far}, threshold={own}."
                )
            return {"threshold": own, "far": None, "data": "given by the caller"}
        known = self.metadata.get("thresholds") or []
        if not known:
            raise PresetError(
                "This preset carries no threshold. Give one: `faces.verify(a, b, threshold=0.4)`."
            )
        if far is None:
            return min(known, key=lambda t: abs(t["far"] - 1e-2))
        for candidate in known:
            if np.isclose(candidate["far"], far):
                return candidate
        rates = ", ".join(f"{t['far']:g}" for t in known)
        raise PresetError(
            f"This preset has no threshold at FAR {far:g}; it has {rates}. Pass one of these, or "
            "`threshold=`."
        )

    def crop(self, source: Source, name: str | None = None) -> np.ndarray:
        """Finds the face in a photograph and aligns it: uint8 `(height, width, 3)`.

        Args:
            source: path, encoded bytes, or RGB uint8 array of a photograph.
            name: what errors call it, by default the path.

        Raises:
            NoFaceError, ImageError: see `embed`.
            PresetError: crops of this size have no template.
        """
        template = alignment.find_template(self.config.template)
        if (template.height, template.width) != (self.config.height, self.config.width):
            raise PresetError(
                f"The preset takes crops of {self.config.height}x{self.config.width}, and its "
                f"template {self.config.template!r} makes others, of {template.height}x"
                f"{template.width}: no photograph can be aligned for it. Pass crops."
            )
        name = name or (str(source) if isinstance(source, (str, os.PathLike)) else "the picture")
        picture = source if isinstance(source, np.ndarray) else images.read_image(source, name)
        found = self.detector.detect(picture)
        if not found:
            raise NoFaceError(name)
        face = detection.choose_face(found, picture.shape)
        return alignment.align(picture, face.landmarks, self.config.template)

    def centre_crop(self, source: Source) -> np.ndarray:
        """The crop that stands in for a face not found: the middle of a 250x250 LFW picture.

        A rectangle of the crop's shape, 0.45 of the picture high, around its centre, resized:
        about where the faces of LFW lie.
        """
        import cv2

        picture = source if isinstance(source, np.ndarray) else images.read_image(source)
        height, width = picture.shape[:2]
        tall = 0.45 * min(height, width)
        wide = tall * self.config.width / self.config.height
        top, left = int((height - tall) / 2), int((width - wide) / 2)
        cut = picture[top : top + round(tall), left : left + round(wide)]
        size = (self.config.width, self.config.height)
        return np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR), np.uint8)

    def embed_crops(
        self,
        crops: np.ndarray,
        mirror: str = "none",
        normalize: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Returns the embeddings of aligned crops, float32 `(n, dim)`.

        Args:
            crops: RGB uint8 `(n, height, width, 3)`.
            mirror: "none"; "sum" adds the mirrored crop's embedding; "concat" appends it.
            normalize: to unit length (after the mirror rule). On LiteRT each crop's embedding
                comes at unit length, so without this the parts of a mirror rule are.
            progress: called with (done, total).

        Raises:
            ImageError: not such crops.
            PresetError: a TFLite file of a preset with a mirror rule is asked for another rule.
        """
        if mirror not in ("none", "sum", "concat"):
            raise ValueError(f"`mirror` is 'none', 'sum' or 'concat'. Received: {mirror!r}.")
        if crops.ndim != 4:
            raise ImageError(
                f"Expected RGB uint8 crops of shape (n, {self.config.height}, "
                f"{self.config.width}, 3). Received: shape={crops.shape}, dtype={crops.dtype}. "
                "For photographs pass their paths."
            )
        for crop in crops[:1]:
            self._checked(crop)
        if isinstance(self.backbone, LiteRTModel) and self.config.mirror != "none":
            if mirror != self.config.mirror:
                raise PresetError(
                    f"This TFLite file joins mirror images by the rule {self.config.mirror!r}, "
                    f"inside. Received: mirror={mirror!r}. Load the preset with runtime='keras'."
                )
            mirror = "none"
        parts = []
        for first in range(0, len(crops), _BATCH):
            batch = crops[first : first + _BATCH]
            direct = self._forward(batch)
            if mirror != "none":
                turned = self._forward(batch[:, :, ::-1])
                direct = (
                    direct + turned if mirror == "sum" else np.concatenate([direct, turned], axis=1)
                )
            parts.append(direct)
            if progress:
                progress(min(first + _BATCH, len(crops)), len(crops))
        if not parts:
            width = self.backbone.output_shape[-1] * (2 if mirror == "concat" else 1)
            return np.zeros((0, width), np.float32)
        embeddings = np.concatenate(parts)
        if normalize:
            length = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(length, 1e-12)
        return embeddings

    def stated(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns what is known of these very weights: the metadata, and the preset's stamp.

        Where weights or config have changed since they were loaded, the metadata is less what was
        measured, with other weights also less what trained them, and there is no stamp.
        """
        if self.folder is None:
            return self.metadata, {}
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / "model.weights.h5"
            presets.write_weights(self.backbone, path)
            state = self._since_loaded(path)
        return self._known(state), presets.stamp(self.folder) if state == "loaded" else {}

    def save_preset(
        self,
        folder: str | os.PathLike[str],
        metadata: dict[str, Any] | None = None,
        recipe: str | None = None,
    ) -> pathlib.Path:
        """Saves everything as a preset folder; the same weights give the same bytes.

        A TFLite file that the preset carries goes with it, unless the weights, the name or
        anything else that the file tells has changed.
        Weights are stored in float16, so a reloaded embedding differs from this object's in
        about the fourth digit; the golden vectors are those of the stored weights.

        Args:
            folder: where to.
            metadata: what is known; by default what this embedder was loaded with, where the
                weights have changed since without name, training and measurements
                (`changed_from` names the preset they began as).
            recipe: text of the recipe that trained the weights; by default the loaded one, or
                none where the weights have changed since.

        Raises:
            PresetError: a weight that is not finite or does not fit float16; no Keras model; a
                folder where it may not be, see `presets.check_place`; or metadata that lacks what a
                card tells, such as the `data` of a threshold.
        """
        if isinstance(self.backbone, LiteRTModel):
            raise PresetError(
                "A preset is saved from its Keras model, not from a TFLite file. Load it with "
                "runtime='keras'."
            )
        folder = pathlib.Path(folder)
        presets.check_place(folder)
        with tempfile.TemporaryDirectory() as scratch:
            stored = pathlib.Path(scratch)
            presets.write_weights(self.backbone, stored / "model.weights.h5")
            weights = (stored / "model.weights.h5").read_bytes()
            reloaded = FaceEmbedder(presets.read_weights(stored, self.config), self.config)
            state = self._since_loaded(stored / "model.weights.h5")
        known = dict(self._known(state) if metadata is None else metadata)
        if recipe is None:
            loaded = self.folder / "recipe.toml" if self.folder and state != "other" else None
            recipe = loaded.read_text(encoding="utf-8") if loaded and loaded.is_file() else ""
        known["parameters"] = self.backbone.count_params()
        known["multiplications"] = multiplications(self.backbone)
        known["embedding"] = self.backbone.output_shape[-1] * (1 + (self.config.mirror == "concat"))
        known.setdefault("name", folder.resolve().name)
        try:
            known = json.loads(presets.to_json(known))  # one order, before and after a reload
        except (TypeError, ValueError) as error:
            raise PresetError(
                f"The metadata is no JSON: {error}. Give plain numbers, text, lists and dicts: "
                "`float(x)`, `array.tolist()`."
            ) from None
        try:
            page = card.card(known, self.config)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            lacks = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise PresetError(
                f"The metadata makes no card: {lacks}. A threshold has far, threshold, tar and "
                "data; a calibration what `to_dict` gives, and data; metrics, held_out, files and "
                "latency are what `spherekeras zoo publish` and its like measure."
            ) from None

        def golden(path: pathlib.Path) -> None:
            crops = golden_crops(self.config.height, self.config.width)
            with path.open("wb") as file:
                np.savez(file, crops=crops, embeddings=reloaded.embed_crops(crops))

        config = presets.to_json({"format": 1, **dataclasses.asdict(self.config)})
        stamp = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in (("model.weights.h5", weights), ("config.json", config.encode()))
        }
        presets.write_preset(
            folder,
            {
                "model.weights.h5": weights,
                "config.json": config,
                presets.TFLITE: self._own_file(known, stamp),
                "metadata.json": presets.to_json(known),
                "recipe.toml": recipe,
                "README.md": page,
                "golden.npz": golden,
            },
        )
        if self.folder and folder.resolve() == self.folder.resolve():
            self.metadata = known  # the folder's weights are this object's now
        return folder

    def check_golden(self) -> float:
        """Compares with the golden vectors and returns the largest difference.

        Raises:
            PresetError: a difference over 1e-4, no preset folder, or a TFLite file with a mirror
                rule, which golden vectors are without.
        """
        if self.folder is None:
            raise PresetError("Only an embedder loaded from a preset has golden vectors.")
        if isinstance(self.backbone, LiteRTModel) and self.config.mirror != "none":
            raise PresetError("A TFLite file that joins mirror images has no golden vectors.")
        try:
            with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
                crops, theirs = golden["crops"], golden["embeddings"]
            sound = crops.ndim == 4 and theirs.dtype.kind == "f" and 0 < len(crops) == len(theirs)
        except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
            sound = False
        if not sound:
            raise PresetError(
                f"{self.folder / 'golden.npz'} does not hold crops and an embedding of each. Fetch "
                "the preset again, or save it anew with `save_preset`."
            )
        ours = self.embed_crops(crops)
        if ours.shape != theirs.shape:
            raise PresetError(
                f"{self.folder / 'golden.npz'} holds embeddings of shape {theirs.shape}; the "
                f"network gives {ours.shape}."
            )
        difference = float(np.max(np.abs(ours - theirs)))
        if not difference <= 1e-4:
            raise PresetError(
                f"{self.folder / 'golden.npz'}: embeddings differ by {difference:.2g} (at most "
                "1e-4 is allowed). This machine or backend computes something else."
            )
        return difference

    def _probability(self, similarity: float) -> float | None:
        known = self.metadata.get("calibration")
        if known is None:
            return None
        from spherekeras.evaluation.calibration import Calibration

        calibration = Calibration.from_dict({k: v for k, v in known.items() if k != "data"})
        return float(calibration.probability(similarity))

    def _forward(self, crops: np.ndarray) -> np.ndarray:
        if isinstance(self.backbone, LiteRTModel):
            return self.backbone(crops)
        import keras

        pixels = crops[..., ::-1] if self.config.channel_order == "BGR" else crops
        padded = np.zeros((_BATCH if len(crops) > 8 else len(crops), *crops.shape[1:]), np.float32)
        padded[: len(crops)] = (pixels.astype(np.float32) - self.config.offset) * self.config.scale
        embeddings = keras.ops.convert_to_numpy(self.backbone.predict_on_batch(padded))
        return np.asarray(embeddings[: len(crops)], np.float32)

    def _own_file(self, known: dict[str, Any], stamp: dict[str, str]) -> bytes | None:
        """The TFLite file beside the loaded weights, if it says what is known of these."""
        path = self.folder / presets.TFLITE if self.folder else None
        if path is None or not path.is_file():
            return None
        model = LiteRTModel(path)
        wanted = presets.note_of(self.config, known, stamp, str(model.note.get("quantization")))
        said = {key: model.note.get(key) for key in wanted}
        return model.content if said == json.loads(json.dumps(wanted)) else None

    def _since_loaded(self, weights: pathlib.Path) -> str:
        """What `weights`, this embedder's, are: "loaded" (or made with), the "same" or "other".

        The "same" weights are laid out otherwise, or stand beside another config.
        """
        if self.folder is None:
            return "loaded"
        path = self.folder / "model.weights.h5"
        unchanged = path.is_file() and path.read_bytes() == weights.read_bytes()
        if unchanged and presets.read_config(self.folder) == self.config:
            return "loaded"
        return "same" if presets.same_weights(weights, path) else "other"

    def _known(self, state: str) -> dict[str, Any]:
        """The metadata that holds of this embedder's weights, see `_since_loaded`."""
        if state == "loaded":
            return self.metadata
        return (presets.unmeasured if state == "same" else presets.changed)(self.metadata)

    def _checked(self, crop: np.ndarray) -> np.ndarray:
        images.check_crop(crop, self.config.height, self.config.width)
        return crop


def _read_file(folder: pathlib.Path, config: PresetConfig) -> LiteRTModel:
    """The TFLite file of a preset, proved to be of these weights."""
    path = folder / presets.TFLITE
    if not path.is_file():
        raise PresetError(
            f"{folder} carries no {presets.TFLITE}. Load it with runtime='keras', or write a file "
            f"of it: `spherekeras export {folder.name} --out face.tflite`."
        )
    model = LiteRTModel(path)
    if model.note["preset"] != presets.stamp(folder):
        raise PresetError(
            f"{path} was made from other weights than {folder} holds. Fetch it again."
        )
    _check_shape(model, config, path)
    return model


def _check_shape(model: LiteRTModel, config: PresetConfig, path: str | os.PathLike[str]) -> None:
    wanted = (config.height, config.width, 3)
    if model.input_shape != wanted or model.dtype != np.float32 or len(model.output_shape) != 2:
        raise PresetError(
            f"{os.fspath(path)} takes {model.dtype} of shape {model.input_shape} and gives "
            f"{model.output_shape[1:]}; its preset makes crops of {wanted}, float32, for one "
            "embedding each. Write the file anew."
        )


def load_preset(
    name_or_folder: str | os.PathLike[str], detector: Any = None, runtime: str = "keras"
) -> FaceEmbedder:
    """Returns `FaceEmbedder.from_preset` of the same arguments."""
    return FaceEmbedder.from_preset(name_or_folder, detector=detector, runtime=runtime)


def golden_crops(height: int, width: int) -> np.ndarray:
    """Two fixed inputs for golden vectors: smooth gradients, and noise, uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127.5 + 127.5 * np.sin(x / (7.0 + 3 * c) + y / (11.0 - 2 * c)) for c in range(3)]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return np.stack([np.stack(waves, axis=-1).round(), noise]).astype(np.uint8)
