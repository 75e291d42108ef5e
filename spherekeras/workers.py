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
from spherekeras.errors import TrainingError

GONE = 75  # a worker's exit status when it lost another: EX_TEMPFAIL of sysexits.h
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
        TrainingError: three starts in a row end without a new checkpoint.
    """
    checkpoints, tries = Checkpoints(out), 0
    while True:
        before = _stamp(checkpoints.path)
        statuses = _run_once(count, command, pathlib.Path(out))
        told = [status for status in statuses if status > 0 and status != GONE]
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
        workers = []
        for index in range(count):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            log = stack.enter_context((out / f"worker-{index}.log").open("ab")) if index else None
            worker = subprocess.Popen(
                command, env={**os.environ, "TF_CONFIG": config}, stdout=log, stderr=log
            )
            stack.callback(_end, worker)
            workers.append(worker)
        with _ended_by_signal():
            while all(worker.poll() is None for worker in workers):
                time.sleep(0.1)
            deadline = time.monotonic() + _GRACE
            while any(worker.poll() is None for worker in workers):
                if any(worker.poll() for worker in workers) and time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        late = [worker.poll() is None for worker in workers]
        for worker in workers:
            _end(worker)
    return [GONE if slow else worker.returncode for worker, slow in zip(workers, late, strict=True)]


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    try:
        worker.wait(5)
    except subprocess.TimeoutExpired:
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
