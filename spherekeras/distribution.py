"""The processors that a run trains on, as `tf.distribute` has them.

One processor, all GPUs of a machine, or the workers of a cluster, which the environment variable
TF_CONFIG names as TensorFlow defines it. Batches are global everywhere: of 256 crops two workers
take 128 each, and the recipe's learning rate is that of the global batch.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from spherekeras.errors import TrainingError, WorkerError

_WAIT = 45.0  # seconds for the other workers to appear
_EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\', the index another for each'
)


def strategy() -> Any:
    """Returns the `tf.distribute.Strategy` of this process.

    MultiWorkerMirroredStrategy where TF_CONFIG names several workers, MirroredStrategy where there
    are GPUs, else TensorFlow's default of one processor. TensorFlow takes part in a cluster only
    if nothing has run in it before.

    Raises:
        TrainingError: TF_CONFIG is wrong, or a worker does not appear within 45 seconds.
        WorkerError: one is gone again.
    """
    workers, index = cluster()
    if len(workers) > 1:
        meet(workers, index)
        import tensorflow as tf

        with _translated("the last checkpoint"):
            return tf.distribute.MultiWorkerMirroredStrategy()
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()


def cluster() -> tuple[list[str], int]:
    """Returns the workers' addresses and which of them this process is, from TF_CONFIG.

    Raises:
        TrainingError: it is not what TensorFlow understands.

    Example:

    >>> cluster()
    ([], 0)
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return [], 0
    try:
        config = json.loads(text)
        jobs = dict(config.get("cluster") or {})
        task = dict(config.get("task") or {})
        others = sorted(set(jobs) - {"chief", "worker"})
        if others:
            raise ValueError(f"the cluster has {', '.join(map(repr, others))}")
        workers = [address for job in ("chief", "worker") for address in jobs.get(job, [])]
        for address in workers:
            host, _, port = str(address).rpartition(":")
            if not host or not 0 < int(port) < 65536:
                raise ValueError(f"{address!r} is not host:port")
        if len(set(workers)) < len(workers):
            raise ValueError("an address stands there twice")
        if not workers:
            return [], 0
        kind, index = task.get("type"), task.get("index")
        if kind not in jobs or type(index) is not int or not 0 <= index < len(jobs[kind]):
            raise ValueError(f"the task is {kind!r} {index!r}, which the cluster does not have")
    except (ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"TF_CONFIG cannot be used: {error}. It names every worker and which one this is: "
            f"{_EXAMPLE}. Unset it to train on this machine alone."
        ) from None
    return workers, index + (len(jobs.get("chief", [])) if kind == "worker" else 0)


def meet(workers: list[str], index: int, seconds: float = _WAIT) -> None:
    """Waits until every worker can be reached: TensorFlow itself would wait an hour.

    Each listens on its own address, and tries the others'.

    Args:
        workers: "host:port" of each.
        index: which one this process is.
        seconds: to wait at most.

    Raises:
        TrainingError: the own port is taken, or some do not answer in time.
    """
    port, both = _address(workers[index])[1], socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise TrainingError(
            f"Worker {index} cannot listen on port {port} of this machine: "
            f"{os.strerror(error.errno or 0)}. End what uses it, or give another port in TF_CONFIG "
            "of every worker."
        ) from None
    with listener:
        missing = [worker for worker in workers if worker != workers[index]]
        deadline = time.monotonic() + seconds
        while missing:
            missing = [worker for worker in missing if not _answers(worker)]
            if missing and time.monotonic() > deadline:
                raise TrainingError(
                    f"Worker {index} waited {seconds:.0f} seconds for {', '.join(missing)} in "
                    "vain. Start every worker within that time, with the same cluster in its "
                    "TF_CONFIG, and see that no firewall stands between them."
                )
            time.sleep(0.1 if missing else 0)


def _address(worker: str) -> tuple[str, int]:
    host, _, port = worker.rpartition(":")
    return host.strip("[]"), int(port)


def _answers(worker: str) -> bool:
    try:
        socket.create_connection(_address(worker), timeout=2.0).close()
    except OSError:
        return False
    return True


def workers_of(strategy: Any) -> int:
    """Returns how many processes a strategy spans; 1 for None."""
    resolver = getattr(strategy, "cluster_resolver", None)
    spec = resolver.cluster_spec().as_dict() if resolver else {}
    return max(1, sum(len(spec.get(job, [])) for job in ("chief", "worker")))


def is_first(strategy: Any) -> bool:
    """Returns whether this process is the one that writes."""
    if workers_of(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return bool(resolver.task_id == 0 and (resolver.task_type == "chief" or not has_chief))


def agree(strategy: Any, number: int, otherwise: str = "") -> None:
    """Waits for all workers, and sees that they hold the same number.

    Args:
        strategy: of the run.
        number: from 0, below 2**48.
        otherwise: what is to be mended where they do not.

    Raises:
        TrainingError: they do not.
    """
    workers = workers_of(strategy)
    if workers == 1:
        return
    import tensorflow as tf

    total = int(strategy.reduce("SUM", tf.constant(number, tf.int64), axis=None))
    if total != workers * number:
        raise TrainingError(f"The {workers} workers differ. {otherwise}".strip())


def from_first(strategy: Any, values: np.ndarray) -> np.ndarray:
    """Returns what the first worker holds.

    Args:
        strategy: of the run.
        values: of one shape on all workers.
    """
    if workers_of(strategy) == 1:
        return values
    import tensorflow as tf

    given = values if is_first(strategy) else np.zeros_like(values)
    return np.asarray(strategy.reduce("SUM", tf.constant(given), axis=None))


@contextlib.contextmanager
def in_company(strategy: Any, checkpoint: str) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker is gone into a `WorkerError`.

    Args:
        strategy: of the run.
        checkpoint: where it will go on from.
    """
    alone = workers_of(strategy) == 1
    with contextlib.nullcontext() if alone else _translated(checkpoint):
        yield


@contextlib.contextmanager
def _translated(checkpoint: str) -> Iterator[None]:
    import tensorflow as tf

    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,  # it has been started again, alone
    )
    try:
        yield
    except gone as error:
        raise WorkerError(
            "Another worker is gone, and none can train without it. Start all of them again with "
            f"the same command: the run goes on from {checkpoint}."
        ) from error
