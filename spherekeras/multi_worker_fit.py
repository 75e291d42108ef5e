"""Keras' `fit` over several processes, which Keras 3.15 itself breaks off.

It builds the metrics from a batch that it first averages over all workers, which values on several
machines do not bear; a plain batch builds the same metrics. And it averages what a step returns
along its first axis, which numbers do not have; so they get one. `tests/test_workers.py` tells when
Keras has mended it; then this file can go.
"""

from typing import Any

import keras


def mend_fit(model: keras.Model, batch: Any) -> None:
    """Makes `model.fit` work under `tf.distribute.MultiWorkerMirroredStrategy`.

    Args:
        model: made and compiled in the strategy's scope; changed in place.
        batch: `(x, y)` as one replica gets them, of which only shapes and types matter.
    """
    step = model.train_step

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=batch)

    def train_step(data: Any) -> dict[str, Any]:
        return {name: keras.ops.reshape(value, (1,)) for name, value in step(data).items()}

    model._maybe_symbolic_build = build  # a private name: there is no other place
    model.train_step = train_step
