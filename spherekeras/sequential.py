"""A Sequential whose head sees the labels."""

from typing import Any

import keras
import numpy as np
from keras import ops

from spherekeras.layers.head import Head
from spherekeras.layers.margin_head import MarginHead
from spherekeras.losses.labels import own_columns


@keras.saving.register_keras_serializable("spherekeras")
class Sequential(keras.Sequential):
    """A `keras.Sequential` that ends in a head and trains with a plain `fit(images, labels)`.

    In a Sequential no labels reach a layer, so a head there could not place its margin. This
    class hands the labels of `fit` and `evaluate` on to the last layer; all else is stock
    Keras: losses, metrics, callbacks, saving. It computes exactly what the Functional model
    with two inputs computes. `predict(images)` gives margin-free logits.

    What `fit` and `evaluate` measure is taken with the margin, as the loss is: an accuracy lies far
    below that of the predictions, `(model.predict(images).argmax(axis=1) == labels).mean()`.
    Where the head samples its classes, metrics in `fit` are among those of the sample.

    Args:
        layers: the layers; the last is a head of `spherekeras.layers`.
        **kwargs: of `keras.Sequential`.

    Raises:
        ValueError: in `fit`, where the last layer is not a head, labels are missing, one-hot,
            floats or out of range, or XLA is to compile what runs on several replicas.

    Example:

    >>> import keras, numpy as np, spherekeras as sk
    >>> model = sk.Sequential([keras.layers.Dense(8), sk.layers.ASoftmax(4)])
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> history = model.fit(np.ones((6, 5), "float32"), np.arange(6) % 4, verbose=0)
    >>> tuple(model.predict(np.ones((6, 5), "float32"), verbose=0).shape)
    (6, 4)
    """

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(y, np.ndarray) and self.layers and isinstance(self.layers[-1], Head):
            self.layers[-1].check_labels(y)  # all at once, before a step compiles
        self._check(x, y)
        self._count_calls()
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check(x, y)
        self._count_calls()
        return super().evaluate(x, y, *args, **kwargs)

    def train_step(self, *args: Any) -> Any:
        return super().train_step(*args[:-1], self._with_labels(args[-1]))

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._count_calls()
        return super().train_on_batch(*args, **kwargs)

    def test_step(self, *args: Any) -> Any:
        return super().test_step(*args[:-1], self._with_labels(args[-1]))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if len(y_pred.shape) == 4:  # of sampled classes: which of them is the row's own
            shape = ops.shape(y_pred)
            y, y_pred = own_columns(*shape[:3]), ops.reshape(y_pred, (shape[0], -1))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            return super().call(inputs, training=training, mask=mask)
        x, labels = inputs
        if self._functional is not None:  # its inputs are cast and shaped as in `predict`
            given = self._functional.inputs[0]
            x = ops.cast(x, given.dtype)
            if len(x.shape) == len(given.shape) - 1 and given.shape[-1] == 1:
                x = ops.expand_dims(x, -1)
        for layer in self.layers[:-1]:
            x = layer(x, training=training) if layer._call_has_training_arg else layer(x)
        return self.layers[-1](x, labels, training=training)

    def _count_calls(self) -> None:
        """Tells the head how many calls make a step, loss scaling or not."""
        optimizer = getattr(self, "optimizer", None)  # Keras says it where there is none
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        head = self.layers[-1] if self.layers else None
        if isinstance(head, MarginHead) and optimizer is not None:
            head.count_calls(optimizer.gradient_accumulation_steps or 1)

    def _check(self, x: Any, y: Any) -> None:
        """Tells what is missing before Keras stumbles over it, and what would stop it for good."""
        strategy = getattr(self, "distribute_strategy", None)
        if self.jit_compile is True and strategy and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                f"XLA cannot compile a step that {strategy.num_replicas_in_sync} replicas take "
                "together under tf.distribute. Received: compile(jit_compile=True). Pass "
                '`jit_compile=False` or "auto".'
            )
        if y is not None or isinstance(x, np.ndarray):
            self._with_labels((x, y))

    def _with_labels(self, data: Any) -> Any:
        """`(images, labels)` as `((images, labels), labels)`, what a Functional model gets."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None or not self.layers or not isinstance(self.layers[-1], Head):
            raise ValueError(
                "`spherekeras.Sequential` trains with `fit(images, labels)` and a head of "
                "`spherekeras.layers` as its last layer. Received: labels "
                f"{'missing' if y is None else 'given'}, last layer "
                f"{self.layers[-1] if self.layers else None}. For another last layer use "
                "`keras.Sequential`."
            )
        return (x, y), y, sample_weight
