"""TFLite files, run by LiteRT: no TensorFlow, no Keras.

A file that `spherekeras.export` wrote carries all that using it takes. Behind its last byte lies a
zip archive, as TFLite keeps files that belong to a model (`unzip -p face.tflite preset.json` shows
it), and `preset.json` in it holds the preset's name, crop, licence and thresholds, with a checksum
over the model.
"""

import functools
import hashlib
import io
import json
import os
import pathlib
import threading
import zipfile
import zlib
from typing import Any

import numpy as np

from spherekeras.errors import PresetError
from spherekeras.files import read_member
from spherekeras.terminal import silenced

NOTE = "preset.json"
_MOST_THREADS = 4
_MOST_NOTE = 1 << 20  # bytes
_BATCH = 16  # where the file takes any
_NO_NOTE = (  # what a file of another kind, a damaged or a hostile one makes the readers raise
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


class LiteRTModel:
    """A TFLite file with one input and one output; threads that share it take turns.

    Args:
        file: path of a `.tflite` file, or its content.
        threads: by default one a core, at most 4.

    Attributes:
        content: the bytes of the file.
        input_shape: of one input, without the batch, such as (112, 96, 3).
        output_shape: (None, dim), as a `keras.Model` tells it.
        dtype: of the input.
        batch: of the file; None for any.
        input, output: as LiteRT describes them.

    Raises:
        PresetError: not there, damaged, not a TFLite file, or of another form.

    Example::

        model = LiteRTModel("face.tflite")
        model(crops)  # (n, 112, 96, 3) pixels 0..255 -> (n, dim)
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._name = "The file" if isinstance(file, bytes) else os.fspath(file)
        try:
            self.content = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
        except OSError as error:
            raise PresetError(f"{self._name} cannot be read: {error.strerror}.") from None
        if self.content[4:8] != b"TFL3":
            raise PresetError(
                f"{self._name} is not a TFLite file. Give one that `spherekeras export` wrote."
            )
        threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        try:
            with silenced():
                self._interpreter = Interpreter(model_content=self.content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200].rstrip(".")
            raise PresetError(f"{self._name} cannot be run by LiteRT: {reason}.") from None
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        tensors = [*inputs, *outputs]
        if len(inputs) != 1 or len(outputs) != 1 or not all(t["shape"].size for t in tensors):
            raise PresetError(
                f"{self._name} has {len(inputs)} inputs and {len(outputs)} outputs. Expected one "
                "of each, with a batch."
            )
        [self.input], [self.output] = inputs, outputs
        self.input_shape = tuple(int(size) for size in self.input["shape"][1:])
        self.output_shape = (None, *(int(size) for size in self.output["shape"][1:]))
        self.dtype = np.dtype(self.input["dtype"])
        self._turn = threading.Lock()
        size = int(self.input["shape_signature"][0])
        self.batch = size if size > 0 else None

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the outputs `(n, dim)` of inputs `(n, *input_shape)`."""
        outputs = [np.zeros((0, *self.output["shape"][1:]), np.float32)]
        for first in range(0, len(inputs), self.batch or _BATCH):
            part = inputs[first : first + (self.batch or _BATCH)].astype(self.dtype, copy=False)
            count = len(part)
            if self.batch is not None and count < self.batch:
                missing = ((0, self.batch - count), *((0, 0) for _ in part.shape[1:]))
                part = np.pad(part, missing)
            outputs.append(self._run(part)[:count])
        return np.concatenate(outputs)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        with self._turn:
            if self.batch is None:
                self._interpreter.resize_tensor_input(self.input["index"], batch.shape)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(self.input["index"], batch)
            self._interpreter.invoke()
            return np.asarray(self._interpreter.get_tensor(self.output["index"]))

    @functools.cached_property
    def note(self) -> dict[str, Any]:
        """What `preset.json` in the file says, once the model's bytes are proved against it.

        Raises:
            PresetError: there is none, or the file was changed since it was written.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                member = archive.getinfo(NOTE)
                if member.file_size > _MOST_NOTE:
                    raise ValueError
                note = json.loads(read_member(archive, member))
            if note["format"] != 1:
                raise ValueError
            parts = [note["config"], note["metadata"], note["preset"]]
            thresholds = [dict(row) for row in note["metadata"].get("thresholds", [])]
            numbers = [row[key] for row in thresholds for key in ("far", "threshold")]
            if not all(type(part) is dict for part in parts) or not all(
                type(number) in (int, float) for number in numbers
            ):
                raise ValueError
            model, digest = self.content[: note["bytes"]], note["sha256"]
        except _NO_NOTE:
            raise PresetError(
                f"{self._name} carries no {NOTE} that can be read: it was not written from a "
                "preset by this version of spherekeras, or it is not whole. Write it anew: "
                "`spherekeras export PRESET --out FILE`."
            ) from None
        if hashlib.sha256(model).hexdigest() != digest:
            raise PresetError(
                f"{self._name} is damaged: its model is not the one that was written."
            )
        return dict(note)

    @functools.cached_property
    def delegation(self) -> tuple[int, tuple[str, ...]]:
        """How many pieces of the graph XNNPACK runs (1 is best), and what it left to slower code.

        The interpreter lists the operators of the file and, behind them, the pieces that took the
        place of some. Which ones still run follows from who makes what a piece or the output reads.
        """
        operators = self._interpreter._get_ops_details()
        pieces = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
        makers = {
            tensor: operator
            for operator in (*(o for o in operators if o not in pieces), *pieces)
            for tensor in operator["outputs"]
        }
        wanted, left = [self.output["index"]], {}
        asked = set()
        while wanted:
            tensor = int(wanted.pop())
            if tensor in asked or tensor not in makers:
                continue
            asked.add(tensor)
            maker = makers[tensor]
            wanted.extend(maker["inputs"])
            if maker["op_name"] != "DELEGATE":
                left[maker["index"]] = maker["op_name"]
        return len(pieces), tuple(left[index] for index in sorted(left))


def with_note(model: bytes, note: dict[str, Any]) -> bytes:
    """Returns a TFLite file with `preset.json` behind it, the same bytes for the same content.

    Args:
        model: a TFLite file.
        note: what `LiteRTModel.note` is to return; "bytes" and "sha256" are added.
    """
    proved = {**note, "bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    file = io.BytesIO()
    file.write(model)
    with zipfile.ZipFile(file, "a") as archive:
        text = json.dumps(proved, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        archive.writestr(zipfile.ZipInfo(NOTE, (1980, 1, 1, 0, 0, 0)), text)
    return file.getvalue()
