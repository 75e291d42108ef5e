"""What a run keeps to go on from: weights, optimiser and counters, whole or not at all.

The data's way: variables → a copy on the host, while the run waits → a thread that writes it beside
the last file, while the run goes on → one rename. The file before stays, for the day when the last
one is damaged. Order and variation of the crops follow from the step, so no more is needed.
"""

import concurrent.futures
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from spherekeras.errors import TrainingError
from spherekeras.files import atomic_path

if TYPE_CHECKING:
    import keras

_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Checkpoints:
    """The last two checkpoints of a run, in its folder.

    A checkpoint is a NumPy archive of the model's variables and its optimiser's. The archive has a
    checksum for every array, and nothing in it is ever executed.

    Args:
        folder: of the run.

    Example:

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> model.optimizer.build(model.trainable_variables)
    >>> checkpoints = Checkpoints(tempfile.mkdtemp())
    >>> checkpoints.restore(model)
    0
    >>> checkpoints.keep(model)
    >>> checkpoints.wait()
    >>> checkpoints.path.name
    'checkpoint.npz'
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(folder) / "checkpoint.npz"
        self.before = self.path.with_name("checkpoint.before.npz")
        self._damaged = False  # the last one, so that it must not push out the one before
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None

    @property
    def kept(self) -> bool:
        """Whether there is a checkpoint."""
        return self.path.exists() or self.before.exists()

    def keep(self, model: "keras.Model") -> None:
        """Takes a copy of the variables and begins to write it.

        Args:
            model: compiled, its optimiser built.

        Raises:
            TrainingError: the one before could not be written.
        """
        import keras

        self.wait()
        arrays = {name: keras.ops.convert_to_numpy(v).copy() for name, v in _variables(model)}
        self._writing = self._writer.submit(self._write, arrays, step_of(model))

    def wait(self) -> None:
        """Returns when the last checkpoint is written.

        Raises:
            TrainingError: it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def restore(self, model: "keras.Model") -> int:
        """Sets the variables to those of the last whole checkpoint.

        Args:
            model: compiled, its optimiser built.

        Returns:
            Its step; 0 where there is none.

        Raises:
            TrainingError: all that is there is damaged, or of another model.
        """
        problems = []
        for path in filter(pathlib.Path.exists, (self.path, self.before)):
            try:
                _assign(model, _read(path))
            except _DAMAGED as error:
                problems.append(
                    f"{path} is damaged ({(str(error) or repr(error)).splitlines()[0]})"
                )
            except _OtherModelError as error:
                problems.append(f"{path} is of another model: {error}")
            else:
                return step_of(model)
            self._damaged = self._damaged or path == self.path
            logging.warning("%s; trying the one before", problems[-1])
        if problems:
            raise TrainingError(
                f"{' and '.join(problems)}. Give a new folder with `--out`, or delete what is "
                "named here to start from the first step."
            )
        return 0

    def clear(self) -> None:
        """Removes what writers that were killed left unfinished."""
        for stray in self.path.parent.glob(f".part-*-{self.path.name}"):
            stray.unlink(missing_ok=True)

    def _write(self, arrays: dict[str, np.ndarray], step: int) -> None:
        try:
            with atomic_path(self.path) as temporary:
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())  # before the one that is replaced is moved
                if self.path.exists() and not self._damaged:
                    os.replace(self.path, self.before)
            self._damaged = False
        except OSError as error:
            kept = "The last one is whole" if self.kept else "There is none yet"
            raise TrainingError(
                f"The checkpoint of step {step} cannot be written to {self.path.parent}: "
                f"{error.strerror or error}. {kept}. Make room for "
                f"{3 * sum(a.nbytes for a in arrays.values()) / 1e6:.0f} MB and start again with "
                "the same command."
            ) from error


def step_of(model: "keras.Model") -> int:
    """Returns how many steps a model has been trained."""
    import keras

    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def _variables(model: "keras.Model") -> Iterator[tuple[str, "keras.Variable"]]:
    """All that a step changes, metrics apart, each with its place and name."""
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    for kind, variables in (("model", own), ("optimizer", model.optimizer.variables)):
        for number, variable in enumerate(variables):
            yield f"{kind}:{number:04}:{variable.path.replace('/', '.')}", variable


def _read(path: pathlib.Path) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        first = archive.testzip()  # reads all of it: NumPy alone stops where an array ends
    if first is not None:
        raise ValueError(f"the checksum of {first} is wrong")
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[name] for name in sorted(arrays.files)]


def _assign(model: "keras.Model", arrays: list[np.ndarray]) -> None:
    variables = [variable for _, variable in sorted(_variables(model), key=lambda pair: pair[0])]
    if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
        raise _OtherModelError(
            f"{len(arrays)} arrays of {sum(a.size for a in arrays):,} values, wanted "
            f"{len(variables)} of {sum(int(np.prod(v.shape)) for v in variables):,}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class _OtherModelError(Exception):
    """The arrays are whole, and not those of this model."""
