"""Heads: layers that turn embeddings into logits with an angular margin on the label's class."""

from spherekeras.layers.a_softmax import ASoftmax
from spherekeras.layers.ada_face import AdaFace
from spherekeras.layers.arc_face import ArcFace
from spherekeras.layers.center_loss import CenterLoss
from spherekeras.layers.contrastive_softmax import ContrastiveSoftmax
from spherekeras.layers.cos_face import CosFace
from spherekeras.layers.curricular_face import CurricularFace
from spherekeras.layers.elastic_face import ElasticFace
from spherekeras.layers.head import Head
from spherekeras.layers.l_softmax import LSoftmax
from spherekeras.layers.mag_face import MagFace
from spherekeras.layers.margin_head import MarginHead
from spherekeras.layers.margin_linear import MarginLinear
from spherekeras.layers.norm_face import NormFace
from spherekeras.layers.normalized_dense import NormalizedDense
from spherekeras.layers.softmax_linear import SoftmaxLinear
from spherekeras.layers.sphereface2 import SphereFace2
from spherekeras.layers.sphereface_plus import SphereFacePlus
from spherekeras.layers.sphereface_r import SphereFaceR
from spherekeras.layers.sub_center_arc_face import SubCenterArcFace

__all__ = [
    "ASoftmax",
    "AdaFace",
    "ArcFace",
    "CenterLoss",
    "ContrastiveSoftmax",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "Head",
    "LSoftmax",
    "MagFace",
    "MarginHead",
    "MarginLinear",
    "NormFace",
    "NormalizedDense",
    "SoftmaxLinear",
    "SphereFace2",
    "SphereFacePlus",
    "SphereFaceR",
    "SubCenterArcFace",
]
