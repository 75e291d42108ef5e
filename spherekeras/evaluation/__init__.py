"""Evaluation: NumPy arrays in, numbers that carry their protocol out. No TensorFlow, no Keras."""

from spherekeras.evaluation.angles import ClassAngles, class_angles
from spherekeras.evaluation.bin_sets import BinSet, bin_set, read_bin_set
from spherekeras.evaluation.bootstrap import Bootstrap, bootstrap_intervals, linked_groups
from spherekeras.evaluation.calibration import (
    Calibration,
    Reliability,
    fit_calibration,
    out_of_fold,
    reliability,
)
from spherekeras.evaluation.crops import Faces
from spherekeras.evaluation.held_out import MOST_CROPS, HeldOut, all_pairs, held_out
from spherekeras.evaluation.identification import (
    Searches,
    cmc,
    fnir_at_fpir,
    score_searches,
    search_gallery,
)
from spherekeras.evaluation.ijb import (
    IjbResult,
    MediaList,
    TemplatePairs,
    ijb,
    ijb_identification,
    ijb_verification,
    read_media_list,
    read_subjects,
    read_template_pairs,
)
from spherekeras.evaluation.kfold import KFold, Split, kfold_accuracy, split_accuracy
from spherekeras.evaluation.lfw import Pair, lfw, read_pairs
from spherekeras.evaluation.megaface import megaface, megaface_folders
from spherekeras.evaluation.metrics import (
    OperatingPoint,
    Roc,
    accuracy,
    angular_fisher_score,
    auc,
    best_accuracy_threshold,
    eer,
    operating_point,
    roc,
    tar_at_far,
    threshold_at_far,
)
from spherekeras.evaluation.picture_kinds import (
    Kind,
    by_kind,
    is_grey,
    kinds_table,
    quality_kinds,
    sharpness,
)
from spherekeras.evaluation.templates import (
    pool_templates,
    template_identification,
    template_verification,
)
from spherekeras.evaluation.verification import VerificationResult
from spherekeras.evaluation.ytf import VideoPair, read_video_pairs, video_verification, ytf

__all__ = [
    "MOST_CROPS",
    "BinSet",
    "Bootstrap",
    "Calibration",
    "ClassAngles",
    "Faces",
    "HeldOut",
    "IjbResult",
    "KFold",
    "Kind",
    "MediaList",
    "OperatingPoint",
    "Pair",
    "Reliability",
    "Roc",
    "Searches",
    "Split",
    "TemplatePairs",
    "VerificationResult",
    "VideoPair",
    "accuracy",
    "all_pairs",
    "angular_fisher_score",
    "auc",
    "best_accuracy_threshold",
    "bin_set",
    "bootstrap_intervals",
    "by_kind",
    "class_angles",
    "cmc",
    "eer",
    "fit_calibration",
    "fnir_at_fpir",
    "held_out",
    "ijb",
    "ijb_identification",
    "ijb_verification",
    "is_grey",
    "kfold_accuracy",
    "kinds_table",
    "lfw",
    "linked_groups",
    "megaface",
    "megaface_folders",
    "operating_point",
    "out_of_fold",
    "pool_templates",
    "quality_kinds",
    "read_bin_set",
    "read_media_list",
    "read_pairs",
    "read_subjects",
    "read_template_pairs",
    "read_video_pairs",
    "reliability",
    "roc",
    "score_searches",
    "search_gallery",
    "sharpness",
    "split_accuracy",
    "tar_at_far",
    "template_identification",
    "template_verification",
    "threshold_at_far",
    "video_verification",
    "ytf",
]
