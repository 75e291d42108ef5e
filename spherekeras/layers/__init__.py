"""Heads: layers that turn embeddings into logits with an angular margin on the label's class."""

from spherekeras.layers.a_softmax import ASoftmax
from spherekeras.layers.margin_head import MarginHead
from spherekeras.layers.margin_linear import MarginLinear
from spherekeras.layers.normalized_dense import NormalizedDense

__all__ = ["ASoftmax", "MarginHead", "MarginLinear", "NormalizedDense"]
