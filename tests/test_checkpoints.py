"""Checkpoints that are whole or not there: bytes flipped, files cut, writers killed, disks full."""

import errno
import os
import pathlib
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras import checkpoints
from spherekeras.checkpoints import Checkpoints
from spherekeras.errors import TrainingError

IMAGES = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
LABELS = np.arange(8) % 3


def model(units: int = 4) -> sk.Sequential:
    keras.utils.set_random_seed(1)
    head = sk.layers.ASoftmax(3, sampling=0.7, annealing=(10.0, 0.1, 1.0, 2.0))
    built = sk.Sequential([keras.Input((5,)), keras.layers.Dense(units), head])
    built.compile(keras.optimizers.SGD(0.1, 0.9), head.loss())
    built.optimizer.build(built.trainable_variables)
    return built


def state(of: sk.Sequential) -> list[np.ndarray]:
    return [np.array(value) for _, value in checkpoints._variables(of)]


def trained(steps: int, folder: pathlib.Path | None = None) -> sk.Sequential:
    """Trained so many steps, with a checkpoint after each where a folder is given."""
    ours = model()
    for _ in range(steps):
        ours.train_on_batch(IMAGES, LABELS)
        if folder:
            kept = Checkpoints(folder)
            kept.keep(ours)
            kept.wait()
    return ours


def test_a_restored_run_takes_the_steps_of_one_that_was_not_stopped(tmp_path: pathlib.Path) -> None:
    ours = trained(3, tmp_path)
    other = model()
    assert Checkpoints(tmp_path).restore(other) == 3
    for one, two in zip(state(ours), state(other), strict=True):
        np.testing.assert_array_equal(one, two)
    for _ in range(3):  # momentum, lambda and the draws of the classes go on as well
        ours.train_on_batch(IMAGES, LABELS)
        other.train_on_batch(IMAGES, LABELS)
    for one, two in zip(state(ours), state(other), strict=True):
        np.testing.assert_array_equal(one, two)
    assert any("seed_generator" in name for name, _ in checkpoints._variables(ours))


def test_the_copy_is_that_of_the_moment(tmp_path: pathlib.Path, monkeypatch) -> None:
    """The writer is held back while training goes on."""
    gate, save = threading.Event(), np.savez

    def slow(*args, **kwargs):
        assert gate.wait(60)
        save(*args, **kwargs)

    monkeypatch.setattr(np, "savez", slow)
    ours, kept = trained(2), Checkpoints(tmp_path)
    wanted = state(ours)
    kept.keep(ours)
    ours.train_on_batch(IMAGES, LABELS)
    assert not kept.kept
    gate.set()
    kept.wait()
    other = model()
    assert Checkpoints(tmp_path).restore(other) == 2
    for one, two in zip(wanted, state(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_one_before_is_taken_where_the_last_is_damaged(tmp_path: pathlib.Path) -> None:
    trained(3, tmp_path)
    path, rng = tmp_path / "checkpoint.npz", np.random.default_rng(0)
    whole = path.read_bytes()
    before = model()
    path.unlink()
    assert Checkpoints(tmp_path).restore(before) == 2
    wanted, fallen_back = state(before), 0
    for number in range(120):
        damaged = bytearray(whole)
        if number % 3:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(whole)) :]
        path.write_bytes(damaged)
        other = model()
        step = Checkpoints(tmp_path).restore(other)
        if step == 2:
            fallen_back += 1
            for one, two in zip(wanted, state(other), strict=True):
                np.testing.assert_array_equal(one, two)
        else:  # a bit that carries nothing, such as a file's date
            assert step == 3 and number % 3
            path.write_bytes(whole)
            last = model()
            Checkpoints(tmp_path).restore(last)
            for one, two in zip(state(last), state(other), strict=True):
                np.testing.assert_array_equal(one, two)
    assert fallen_back > 80


def test_two_damaged_ones_are_named(tmp_path: pathlib.Path) -> None:
    for name in ("checkpoint.npz", "checkpoint.before.npz"):
        (tmp_path / name).write_bytes(b"no zip")
    with pytest.raises(
        TrainingError,
        match=r"checkpoint.npz is damaged \(File is not a zip file\) and .*before.npz is damaged "
        r".*Give a new folder with `--out`, or delete what is named here to start from the f",
    ):
        Checkpoints(tmp_path).restore(model())


def test_a_bit_of_every_byte_of_a_small_one(tmp_path: pathlib.Path, monkeypatch) -> None:
    """The last is taken as it was written, or the one before: nothing else, no other error."""
    tiny = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    tiny.compile("sgd", "mse")
    tiny.optimizer.build(tiny.trainable_variables)
    kernel, kept = tiny.get_weights()[0], Checkpoints(tmp_path)
    for step in (1, 2):
        tiny.optimizer.iterations.assign(step)
        kept.keep(tiny)
        kept.wait()
    whole = kept.path.read_bytes()
    monkeypatch.setattr(checkpoints.logging, "warning", lambda *args: None)
    steps = {1: 0, 2: 0}
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        kept.path.write_bytes(damaged)
        tiny.layers[0].kernel.assign(kernel + 1)
        steps[Checkpoints(tmp_path).restore(tiny)] += 1
        np.testing.assert_array_equal(tiny.get_weights()[0], kernel)
    assert steps[1] > 0.5 * len(whole) and sum(steps.values()) == len(whole)


def test_a_damaged_one_does_not_push_out_the_one_before(tmp_path: pathlib.Path) -> None:
    trained(3, tmp_path)
    (tmp_path / "checkpoint.npz").write_bytes(b"damaged")
    resumed, kept = model(), Checkpoints(tmp_path)
    assert kept.restore(resumed) == 2
    before = kept.before.read_bytes()
    for turn in (1, 2):
        resumed.train_on_batch(IMAGES, LABELS)
        kept.keep(resumed)
        kept.wait()
        assert (kept.before.read_bytes() == before) == (turn == 1)
    assert Checkpoints(tmp_path).restore(model()) == 4
    kept.path.unlink()
    assert Checkpoints(tmp_path).restore(model()) == 3


def test_a_pickle_is_never_opened(tmp_path: pathlib.Path) -> None:
    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "checkpoint.npz", a=np.array([Trap()], object))
    with pytest.raises(TrainingError, match="is damaged .Object arrays cannot be loaded"):
        Checkpoints(tmp_path).restore(model())
    assert not (tmp_path / "sprung").exists()


def test_another_models_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    trained(1, tmp_path)
    with pytest.raises(
        TrainingError, match=r"is of another model: \d+ arrays of .*wanted \d+ of .*`--out`"
    ):
        Checkpoints(tmp_path).restore(model(units=6))


def test_a_full_disk_keeps_the_last_one_and_says_so(tmp_path: pathlib.Path, monkeypatch) -> None:
    ours = trained(1, tmp_path)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    kept = Checkpoints(tmp_path)
    ours.train_on_batch(IMAGES, LABELS)
    kept.keep(ours)
    with pytest.raises(
        TrainingError,
        match=r"The checkpoint of step 2 cannot be written to .*: No space left on device\. The "
        r"last one is whole\. Make room for \d+ MB and start again with the same command\.",
    ):
        kept.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert Checkpoints(tmp_path).restore(model()) == 1


WRITERS = """
import contextlib, os, pathlib, signal, sys, time
import numpy as np
from spherekeras import checkpoints
folder, rng, last = pathlib.Path(sys.argv[1]), np.random.default_rng(3), 0
started = time.perf_counter()
checkpoints.Checkpoints(folder)._write({"a": np.zeros(200_000, int), "b": np.zeros(1, int)}, 0)
pause = 2 * (time.perf_counter() - started) + 0.01  # this disk's
for turn in range(100):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        kept = checkpoints.Checkpoints(folder)
        while True:
            last += 1
            kept._write({"a": np.full(200_000, last), "b": np.array([last])}, last)
            os.write(writer, b"%d " % last)
    os.close(writer)
    time.sleep(rng.uniform(0, 2 * pause))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        last = max([last, *map(int, told.read().split())])
    found = []
    for name in ("checkpoint.npz", "checkpoint.before.npz"):
        with contextlib.suppress(FileNotFoundError):
            many, one = checkpoints._read(folder / name)
            assert (many == one).all()
            found.append(int(one[0]))
    assert not last or max(found) >= last, (last, found)
    last = max([last, *found])
    strays = len(list(folder.iterdir())) - len(found)
    checkpoints.Checkpoints(folder).clear()
    assert len(list(folder.iterdir())) == len(found)
    print(last, strays)
"""


def test_a_hundred_writers_killed_leave_whole_ones(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITERS, str(tmp_path)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    turns = [line.split() for line in done.stdout.splitlines()]
    assert len(turns) == 100
    assert int(turns[-1][0]) > 100  # they wrote
    assert sum(int(strays) for _, strays in turns) > 10  # and were killed as they wrote
