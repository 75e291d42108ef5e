"""Functions compiled where that serves, and not elsewhere."""

import json
import os
import subprocess
import sys

import numpy as np
import tensorflow as tf
from keras import ops

from spherekeras.one_pass import on_one_processor, one_pass


@one_pass(otherwise=lambda x: x - 1)
def plus_one(x):
    return ops.add(x, 1)


def compiles(function, *arguments):
    graph = tf.function(function).get_concrete_function(*arguments).graph.as_graph_def()
    return any(f.attr["_XlaMustCompile"].b for f in graph.library.function)


def test_a_graph_gets_it_compiled_and_an_eager_call_the_other_form():
    x = tf.constant([1.0, 2.0])
    assert compiles(plus_one, x)
    np.testing.assert_array_equal(tf.function(plus_one)(x), [2, 3])
    np.testing.assert_array_equal(plus_one(x), [0, 1])
    assert not on_one_processor()


def test_within_a_compiled_step():
    step = tf.function(lambda x: 2 * plus_one(x), jit_compile=True)
    np.testing.assert_array_equal(step(tf.constant([1.0, 2.0])), [4, 6])


def test_every_size_of_a_batch():
    step = tf.function(plus_one, input_signature=[tf.TensorSpec((None,))])
    for size in (3, 1, 7):
        np.testing.assert_array_equal(step(tf.ones(size)), np.full(size, 2))


REPLICAS = """
import json
import tensorflow as tf
from spherekeras.layers.products import _squares
from spherekeras.one_pass import on_one_processor
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
found = {}
for name, devices in (("one", ["CPU:0"]), ("two", ["CPU:0", "CPU:1"])):
    strategy = tf.distribute.MirroredStrategy(devices)
    traced = []

    @tf.function
    def step():
        traced.append(on_one_processor())
        return _squares(tf.fill((40, 2), 0.5))

    values = strategy.experimental_local_results(strategy.run(step))
    found[name] = [traced, [value.numpy().tolist() for value in values]]
print(json.dumps(found))
"""


def test_several_replicas_get_the_other_form():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REPLICAS],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    (one, one_value), (two, two_values) = found["one"], found["two"]
    assert set(one) == {True} and set(two) == {False}
    assert one_value == [[10, 10]] and two_values == [[10, 10]] * 2
