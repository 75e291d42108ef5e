"""A head's passes over kernel and logits, run by themselves and compiled, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from spherekeras.layers import products


@pytest.mark.parametrize("dim", [5, 16, 40])
@pytest.mark.parametrize("units", [7, 3000])
@pytest.mark.parametrize("batch", [6, 35])
def test_the_passes_of_a_head_are_the_same_in_both_forms(dim, units, batch):
    random = np.random.default_rng(dim)
    kernel, gradient = random.normal(size=(2, dim, units))
    kernel[:, 1] = 1e-7  # no direction
    upstream, values = random.normal(size=(2, batch, units))
    own, labels = random.normal(size=(batch, 1)), random.integers(0, units, batch).astype("int32")
    along = random.normal(size=units)
    mine = upstream.copy()
    mine[np.arange(batch), labels] = own[:, 0]
    cases = [
        (products._squares, [kernel], [(kernel**2).sum(axis=0)]),
        (
            products._spread,
            [upstream, own, labels, values, along],
            [mine * along, (mine * along * values).sum(axis=0)],
        ),
        (products._without, [gradient, kernel, along], [gradient - kernel * along]),
    ]
    for function, arguments, wanted in cases:
        tensors = [tf.constant(argument) for argument in arguments]
        graph = tf.function(function).get_concrete_function(*tensors).graph.as_graph_def()
        assert any(f.attr["_XlaMustCompile"].b for f in graph.library.function)
        sizes = [[None, *tensor.shape[1:]] for tensor in tensors]  # as of a batch of any size
        specs = [tf.TensorSpec(s, t.dtype) for s, t in zip(sizes, tensors, strict=True)]
        unknown = [] if function is products._squares else [tf.function(function, specs)]
        for form in (function, tf.function(function), *unknown):
            for value, expected in zip(tf.nest.flatten(form(*tensors)), wanted, strict=True):
                np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
