"""Clusters: what TF_CONFIG may say, and workers that wait for one another, but not forever."""

import json
import socket
import threading
import time

import numpy as np
import pytest

from spherekeras import distribution
from spherekeras.errors import TrainingError, WorkerError


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def config(task=("worker", 0), **jobs):
    return json.dumps({"cluster": jobs, "task": {"type": task[0], "index": task[1]}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "has no attribute"),
        (config(worker=["a:1", "b"]), "'b' is not host:port"),
        (config(worker=["a:1", "b:x"]), "invalid literal"),
        (config(worker=["a:1", "b:70000"]), "'b:70000' is not host:port"),
        (config(worker=["a:1", "a:1"]), "an address stands there twice"),
        (config(worker=["a:1", "b:2"], task=("worker", 2)), "the task is 'worker' 2, which the"),
        (config(worker=["a:1", "b:2"], task=("worker", None)), "the task is 'worker' None"),
        (config(worker=["a:1"], ps=["b:2"]), "the cluster has 'ps'"),
    ],
)
def test_a_wrong_tf_config_is_told_with_a_right_one(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(TrainingError, match=rf"^TF_CONFIG cannot be used: .*({message})") as error:
        distribution.strategy()
    assert '\'{"cluster": {"worker": [' in str(error.value)
    assert str(error.value).endswith("Unset it to train on this machine alone.")


def test_the_workers_and_which_of_them(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.cluster() == ([], 0)
    monkeypatch.setenv("TF_CONFIG", config(worker=["a:1", "b:2"], task=("worker", 1)))
    assert distribution.cluster() == (["a:1", "b:2"], 1)
    monkeypatch.setenv(
        "TF_CONFIG", config(chief=["a:1"], worker=["b:2", "[::1]:3"], task=("worker", 1))
    )
    assert distribution.cluster() == (["a:1", "b:2", "[::1]:3"], 2)


def test_workers_meet_however_late_one_comes():
    workers = [f"127.0.0.1:{port}" for port in free_ports(3)]
    met, failures = [], []

    def come(index):
        try:
            time.sleep(0.6 * index)
            distribution.meet(workers, index, seconds=20)
            met.append(index)
        except TrainingError as error:
            failures.append(error)
        # What TensorFlow does next: it takes the port and goes on answering there.
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", int(workers[index].split(":")[1])))
            server.listen()
            done.wait(20)

    done = threading.Event()
    threads = [threading.Thread(target=come, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 25
    while len(met) < 3 and not failures and time.monotonic() < deadline:
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(met) == [0, 1, 2] and not failures


def test_a_worker_that_does_not_come_is_named():
    first, second = free_ports(2)
    started = time.monotonic()
    with pytest.raises(
        TrainingError,
        match=rf"^Worker 0 waited 1 seconds for 127.0.0.1:{second} in vain\. Start every worker",
    ):
        distribution.meet([f"127.0.0.1:{first}", f"127.0.0.1:{second}"], 0, seconds=1)
    assert time.monotonic() - started < 20


def test_a_port_in_use_is_told():
    (other,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrainingError, match=rf"cannot listen on port {port} of this machine"):
            distribution.meet([f"127.0.0.1:{port}", f"127.0.0.1:{other}"], 0, seconds=1)


class Resolver:
    task_type, task_id = "worker", 1

    def cluster_spec(self):
        return self

    def as_dict(self):
        return {"worker": ["a:1", "b:2"]}


class Company:
    cluster_resolver = Resolver()


def test_who_writes():
    assert distribution.workers_of(None) == 1 and distribution.is_first(None)
    assert distribution.workers_of(Company()) == 2 and not distribution.is_first(Company())


def test_a_lost_worker_is_no_traceback_of_tensorflow():
    import tensorflow as tf

    with (
        pytest.raises(WorkerError, match=r"^Another worker is gone.*goes on from c\.npz\.$"),
        distribution.in_company(Company(), "c.npz"),
    ):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by ...")
    with pytest.raises(tf.errors.UnavailableError), distribution.in_company(None, "c.npz"):
        raise tf.errors.UnavailableError(None, None, "alone")


def test_one_process_agrees_with_itself():
    distribution.agree(None, 3)
    np.testing.assert_array_equal(distribution.from_first(None, np.arange(3)), [0, 1, 2])
