"""Several worker processes on this machine, started together and, when one dies, started again."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from spherekeras.checkpoints import Checkpoints
from spherekeras.errors import TrainingError, WorkerError

_TRIES = 3  # in a row that bring no new checkpoint
_GRACE = 30.0  # seconds for the others to notice that one is gone


def run_workers(count: int, command: Sequence[str], out: str | os.PathLike[str]) -> int:
    """Runs one command in several processes that form a cluster, until all have done their work.

    Each gets its TF_CONFIG, with ports that are free. When one is killed, all start again and go on
    from the last checkpoint; not when one has told what is wrong. The first writes on this
    terminal, the others into `worker-1.log` and so on.

    Args:
        count: processes.
        command: of each.
        out: folder of the run.

    Returns:
        Its exit status: 0, or that of the worker that told what is wrong.

    Raises:
        TrainingError: fewer than one process, a machine with GPUs, or three starts in a row that
            end without a new checkpoint.
    """
    if count < 1:
        raise TrainingError(f"`--workers` is a number from 1. Received: {count}.")
    if count > 1 and pathlib.Path("/dev/nvidia0").exists():
        raise TrainingError(
            f"One process trains on all GPUs of this machine. Received: --workers {count}, which "
            "would each take all of them. Leave `--workers` out."
        )
    with _ended_by_signal():
        return _run_until_done(count, command, pathlib.Path(out))


def _run_until_done(count: int, command: Sequence[str], out: pathlib.Path) -> int:
    checkpoints, tries = Checkpoints(out), 0
    while True:
        before = _stamp(checkpoints.path)
        statuses = _run_once(count, command, out)
        told = [status for status in statuses if status > 0 and status != WorkerError.status]
        if told or not any(statuses):
            return max(told, default=0)
        died = ", ".join(
            f"worker {index} by signal {signal.Signals(-status).name}"
            for index, status in enumerate(statuses)
            if status < 0
        )
        tries = 0 if _stamp(checkpoints.path) != before else tries + 1
        if tries >= _TRIES:
            raise TrainingError(
                f"The workers ended {_TRIES} times in a row before a new checkpoint (the last "
                f"time: {died or 'none by a signal'}). See {out}/worker-*.log; fewer `--workers` "
                "need less memory."
            )
        logging.warning("%s; all start again", died or "the workers lost one another")


def _run_once(count: int, command: Sequence[str], out: pathlib.Path) -> list[int]:
    """The exit statuses of one start of all; negative for a signal's number."""
    addresses = _free_addresses(count)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        workers: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, workers)
        for index in range(count):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            log = stack.enter_context((out / f"worker-{index}.log").open("ab")) if index else None
            environment = {**os.environ, "TF_CONFIG": config}
            workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        try:
            while all(worker.poll() is None for worker in workers):
                time.sleep(0.1)
            _wait(workers, _GRACE)
        except KeyboardInterrupt:  # which the workers got as well
            _wait(workers, 5.0)
            raise
        late = [worker.poll() is None for worker in workers]
        _end(workers)
    return [
        WorkerError.status if slow else worker.returncode
        for worker, slow in zip(workers, late, strict=True)
    ]


def _wait(workers: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    _wait(workers, 5.0)
    for worker in workers:
        worker.kill()
        worker.wait()


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Inside, SIGTERM raises, so that the workers are ended too."""

    def stop(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    kept = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]


def _stamp(path: pathlib.Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
