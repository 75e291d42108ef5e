"""The layers of a functional model in the order in which they run."""

from typing import Any, NamedTuple


class Step(NamedTuple):
    """One call of a layer: the ids of its input tensors, and its output."""

    layer: Any
    inputs: list[int]
    output: Any

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
        inputs = history.operation._inbound_nodes[history.node_index].input_tensors
        waiting = [given for given in inputs if id(given) not in done]
        if id(tensor) in done or not waiting:
            pending.pop()
            if id(tensor) not in done:
                done.add(id(tensor))
                steps.append(Step(history.operation, [id(t) for t in inputs], tensor))
        else:
            pending.extend(reversed(waiting))
    return steps
