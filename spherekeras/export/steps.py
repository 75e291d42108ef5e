"""The layers of a functional model in the order in which they run."""

from typing import Any, NamedTuple


class Step(NamedTuple):
    """One call of a layer: the ids of its input tensors, its output, and what else it was given."""

    layer: Any
    inputs: list[int]
    output: Any
    extras: list[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape, without the batch."""
        return tuple(self.output.shape[1:])


def steps_of(model: Any) -> list[Step]:
    """Returns the calls that the output needs, each after those it needs itself.

    Args:
        model: a functional `keras.Model` with one input and one output.
    """
    steps: list[Step] = []
    done = {id(model.inputs[0])}
    pending = [model.outputs[0]]
    while pending:
        tensor = pending[-1]
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        inputs = node.input_tensors
        waiting = [given for given in inputs if id(given) not in done]
        if id(tensor) in done or not waiting:
            pending.pop()
            if id(tensor) not in done:
                done.add(id(tensor))
                steps.append(
                    Step(history.operation, [id(t) for t in inputs], tensor, _extras(node))
                )
        else:
            pending.extend(reversed(waiting))
    return steps


def is_stock(layer: Any, kind: str) -> bool:
    """Whether it computes what that layer of Keras does; a subclass may do anything."""
    import keras

    return computes_as(layer, getattr(keras.layers, kind))


def computes_as(layer: Any, kind: Any) -> bool:
    """Whether it is of a class of Keras and its `call` is that class's, or this project's."""
    ours = type(layer).__module__.startswith("spherekeras.")
    return isinstance(layer, kind) and (type(layer).call is getattr(kind, "call", None) or ours)


def _extras(node: Any) -> list[Any]:
    """What a call was given beside tensors: constants, `training=True`."""
    import keras

    given = keras.tree.flatten([node.arguments.args, node.arguments.kwargs])
    tensor = keras.backend.is_keras_tensor
    return [x for x in given if not tensor(x) and x is not None and x is not False]
