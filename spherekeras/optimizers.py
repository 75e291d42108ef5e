"""Gradient descent as the papers have it, at the cost of one pass over the weights."""

from collections.abc import Sequence
from typing import Any

import keras

Tensor = Any


class _LimitsTheWhole:
    """Limits the gradient of the whole batch where several replicas have a part of it each.

    Keras' optimizers limit each replica's part and add them up after that, which is another rule:
    what a run computes would change with the number of its replicas.
    """

    def _clip_gradients(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        limit: Any = super()._clip_gradients  # type: ignore[misc]
        settings: Any = self
        if keras.backend.backend() != "tensorflow" or not (
            settings.clipnorm or settings.global_clipnorm or settings.clipvalue
        ):
            return list(limit(gradients))
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return list(limit(gradients))
        there = [gradient for gradient in gradients if gradient is not None]
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, there))
        whole = limit([None if gradient is None else next(summed) for gradient in gradients])
        # Keras adds up what each replica gives: as many equal parts.
        parts = context.num_replicas_in_sync
        return [None if gradient is None else gradient / parts for gradient in whole]


@keras.saving.register_keras_serializable("spherekeras")
class AdamW(_LimitsTheWhole, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` whose `clipnorm`, `global_clipnorm` and `clipvalue` limit the
    gradient of the whole batch, however many replicas share it.

    Args:
        *args: of `keras.optimizers.AdamW`.
        **kwargs: of `keras.optimizers.AdamW`.

    Example:

    >>> optimizer = AdamW(1e-3, weight_decay=0.05, global_clipnorm=1.0)
    >>> optimizer.global_clipnorm
    1.0
    """


@keras.saving.register_keras_serializable("spherekeras")
class SGD(_LimitsTheWhole, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with coupled weight decay, and in one pass on TensorFlow.

    Coupled decay adds `coupled_weight_decay * w` to the gradient of every weight, before the
    momentum: the L2 term of Caffe's and PyTorch's SGD, and so of the SphereFace recipes. Keras' own
    `weight_decay=` shrinks the weights by themselves, which is another rule, and an L2 regularizer
    on each weight costs three times as much as this.

    With momentum (not Nesterov's) the update on the TensorFlow backend is one operation where
    `keras.optimizers.SGD` runs five, each over all weights. The class weights of a head are by far
    the most weights of a network, so that a step with many classes is a good deal faster.

    `clipnorm`, `global_clipnorm` and `clipvalue` limit the gradient of the whole batch, however
    many replicas share it.

    Args:
        learning_rate: a number or a schedule.
        momentum: from 0 to 1.
        nesterov: whether Nesterov's.
        coupled_weight_decay: λ, at least 0.
        **kwargs: of `keras.optimizers.SGD`.

    Raises:
        ValueError: a decay below 0.

    Source: the released recipe of arXiv 1704.08063 (base_lr, momentum, weight_decay of its Caffe
    solver).

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.set_weights([np.array([[2.0]])])
    >>> model.compile(SGD(0.1, coupled_weight_decay=0.5), "mse")
    >>> history = model.fit(np.zeros((1, 1)), np.zeros(1), verbose=0)  # no gradient of its own
    >>> round(float(model.get_weights()[0][0, 0]), 4)  # 2 - 0.1 * (0.5 * 2)
    1.9
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        coupled_weight_decay: float = 0.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, name=name, **kwargs)
        if not coupled_weight_decay >= 0:
            raise ValueError(
                "`SGD` expects coupled_weight_decay >= 0. Received: "
                f"coupled_weight_decay={coupled_weight_decay}."
            )
        self.coupled_weight_decay = float(coupled_weight_decay)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            gradient = gradient + self.coupled_weight_decay * variable
        if keras.backend.backend() != "tensorflow" or not self.momentum or self.nesterov:
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        momentum: Any = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "coupled_weight_decay": self.coupled_weight_decay}
