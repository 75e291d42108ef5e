"""Where a step's time goes: made-up traces counted by hand, and a real one."""

import pathlib
import re

import keras
import numpy as np
import pytest

import spherekeras as sk
from spherekeras.profiling import PARTS, Profile, by_layer, operations


class Slow(keras.layers.Layer):
    """Forward alone takes long: a product of 1,500 x 1,500 that nothing asks the gradient of."""

    def call(self, inputs):
        large = keras.ops.ones((1500, 1500)) * keras.ops.mean(inputs)
        product = keras.ops.stop_gradient(keras.ops.matmul(large, large))
        return inputs + 1e-20 * keras.ops.mean(product)


def fitted(folder: pathlib.Path, steps: int) -> str:
    head = sk.layers.ASoftmax(3, name="head")
    inner = keras.Sequential(
        [keras.Input((4,)), Slow(name="slow"), keras.layers.Dense(4, name="dense")]
    )
    model = sk.Sequential([keras.Input((4,)), inner, head], name="mine")
    model.compile(keras.optimizers.SGD(0.1, 0.9), head.loss(), jit_compile=False)
    images, labels = np.ones((8 * steps, 4), "float32"), np.zeros(8 * steps, "int32")
    model.fit(images, labels, 8, callbacks=[Profile(folder, crops=8)], verbose=0)
    page = folder / "profile.html"
    return page.read_text() if page.exists() else ""


def test_the_slow_layer_and_part_lead(tmp_path: pathlib.Path) -> None:
    page = fitted(tmp_path, 20)
    order = re.findall(r'<tr><th scope="row">([^<]*)</th><td class="n">', page)
    assert order[0] == "slow" and set(order) >= {"slow", "dense", "head", "(in no layer)"}
    shares = dict(re.findall(r"</i>([A-Za-z ]+) ([\d.]+)%", page))
    assert tuple(shares) == PARTS
    assert float(shares["forward"]) > 50
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.3)
    assert "<h1>mine: <b>" in page and "8 crops" in page
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    speed = float(re.search(r"<b>([\d.]+)</b> crops a second", page)[1])
    assert 1 < speed < 1e5


def test_a_run_too_short_says_so(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fitted(tmp_path, 9) == ""
    assert "No profile: it needs 16 steps, and 9 were left" in caplog.text
    import tensorflow as tf

    tf.profiler.experimental.start(str(tmp_path / "again"))  # the recording was ended
    tf.profiler.experimental.stop()


def test_operations_are_summed_over_threads(tmp_path: pathlib.Path) -> None:
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    plane = space.planes.add()
    compiled = "CpuExecutable::ExecuteAsyncOnStream"
    names = ["net_1/conv_1/Conv2D:Conv2D", "ExecutorState::Process", compiled, "sgd/Mul:Mul"]
    for number, name in enumerate(names):
        plane.event_metadata[number].name = name
    for _ in range(2):
        line = plane.lines.add()
        for number in range(4):
            line.events.add(metadata_id=number, duration_ps=10**12 * (number + 1))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.xplane.pb").write_bytes(space.SerializeToString())
    assert operations(tmp_path) == {names[0]: 2.0, "XLA:XLA": 6.0, names[3]: 8.0}


def test_paths_are_divided_over_layers_and_parts() -> None:
    seconds = {
        "Call/mine_1/net_1/stage1_conv_1/Conv2D:_MklNativeFusedConv2D": 1.0,
        "Call/gradient_tape/mine_1/net_1/stage1_conv_1/Conv2D/Back:Conv2DBackpropInput": 2.0,
        "Call/gradient_tape/mine_1/net_1/unit_2_1/Mul:Mul": 4.0,
        "Call/sgd/AssignAddVariableOp_12:AssignAddVariableOp": 8.0,
        "Call/mine_1/head_1/MatMul:MatMul": 16.0,
        "IteratorGetNext:IteratorGetNext": 32.0,
        "Call/mine_1/loss/Sum:Sum": 64.0,
        "XLA:XLA": 128.0,
        "PyFuncStateless:PyFuncStateless": 256.0,
    }
    divided = by_layer(seconds, {"mine", "net", "stage1_conv", "unit_2", "head"}, "sgd")
    waiting, preparing, forward, backward, update, compiled = PARTS
    nothing = dict.fromkeys(PARTS, 0.0)
    assert divided == {
        "stage1_conv": {**nothing, forward: 1.0, backward: 2.0},
        "unit_2": {**nothing, backward: 4.0},
        "head": {**nothing, forward: 16.0},
        "mine": {**nothing, forward: 64.0},
        "": {**nothing, update: 8.0, waiting: 32.0, compiled: 128.0, preparing: 256.0},
    }
