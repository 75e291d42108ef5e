"""Evaluation: NumPy arrays in, numbers that carry their protocol out. No TensorFlow, no Keras."""

from spherekeras.evaluation.angles import ClassAngles, class_angles
from spherekeras.evaluation.kfold import KFold, Split, kfold_accuracy, split_accuracy
from spherekeras.evaluation.lfw import Faces, LfwResult, Pair, lfw, read_pairs
from spherekeras.evaluation.metrics import (
    OperatingPoint,
    Roc,
    accuracy,
    angular_fisher_score,
    auc,
    best_accuracy_threshold,
    bootstrap_interval,
    eer,
    operating_point,
    roc,
    tar_at_far,
    threshold_at_far,
)

__all__ = [
    "ClassAngles",
    "Faces",
    "KFold",
    "LfwResult",
    "OperatingPoint",
    "Pair",
    "Roc",
    "Split",
    "accuracy",
    "angular_fisher_score",
    "auc",
    "best_accuracy_threshold",
    "bootstrap_interval",
    "class_angles",
    "eer",
    "kfold_accuracy",
    "lfw",
    "operating_point",
    "read_pairs",
    "roc",
    "split_accuracy",
    "tar_at_far",
    "threshold_at_far",
]
