"""A hundred kills at random moments: every run ends in the weights of one that was left alone."""

import multiprocessing
import os
import pathlib
import time

import numpy as np
import pytest

from spherekeras.data.drawn_faces import write_drawn_crops
from spherekeras.embedder import FaceEmbedder

RECIPE = """
[data]
validation = 0.61
[backbone]
depth = 4
embedding_dim = 16
[head]
annealing = [10.0, 0.12, 1.0, 5.0]
sampling = 0.6
[optimizer]
learning_rate = 0.02
warmup = 2
average = 0.9
[training]
steps = 12
batch_size = 8
checkpoint_steps = 2
[augmentation]
shift = 2
"""
KILLS = 100


def work(recipe: pathlib.Path, crops: pathlib.Path, out: pathlib.Path) -> None:
    os.close(2)  # TensorFlow's chatter, a hundred times
    os.open(os.devnull, os.O_WRONLY)
    from spherekeras.training import train

    train(recipe, crops, out, verbose=0)


def checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def last_step(out: pathlib.Path) -> int:
    """Of the last checkpoint, which is whole; a kill between two renames leaves the one before."""
    for path in (out / "checkpoint.npz", out / "checkpoint.before.npz"):
        if path.exists():
            arrays = checkpoint(path)
            return int(next(value for name, value in arrays.items() if name.endswith(".iteration")))
    return 0


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_kills(tmp_path: pathlib.Path) -> None:
    crops = write_drawn_crops(tmp_path / "crops", range(8), 6)
    (tmp_path / "mine.toml").write_text(RECIPE)
    # A server that has imported all forks each run: ten seconds less for every kill.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras", "spherekeras.training"])
    random = np.random.default_rng(0)

    def start(out: pathlib.Path) -> multiprocessing.Process:
        process = context.Process(target=work, args=(tmp_path / "mine.toml", crops, out))
        process.start()
        return process

    for turn in range(2):  # the second without the server's own start
        started = time.monotonic()
        alone = start(tmp_path / f"alone{turn}")
        alone.join(300)
        assert alone.exitcode == 0
    whole = time.monotonic() - started
    wanted = checkpoint(tmp_path / "alone0" / "checkpoint.npz")
    kills, ended, steps_killed_at = 0, 0, []
    while kills < KILLS:
        out, before = tmp_path / f"run{ended}", 0
        while True:
            process = start(out)
            process.join(random.uniform(0, 1.1 * whole) if kills < KILLS else 300)
            killed = process.exitcode is None
            if killed:
                process.kill()
                process.join()
                kills += 1
            assert killed or process.exitcode == 0, process.exitcode
            step = last_step(out)
            assert step >= before, f"kill {kills} lost a checkpoint: {before}, then {step}"
            before = step
            if not killed:
                break
            steps_killed_at.append(step)
        found = checkpoint(out / "checkpoint.npz")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=f"run {ended} {name}")
        assert FaceEmbedder.from_preset(out / "preset").check_golden() <= 1e-4
        ended += 1
    spread = np.bincount(steps_killed_at, minlength=13)
    print(f"{kills} kills over {ended} runs, at steps {spread}, {whole:.1f} s a run")
    assert ended >= 5 and (spread[[0, 2, 4, 6, 8, 10]] > 0).all(), spread
