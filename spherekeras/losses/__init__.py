"""Losses: what `model.compile(loss=...)` takes, next to a head of `spherekeras.layers` or alone."""

from spherekeras.losses.cross_entropy import CrossEntropy
from spherekeras.losses.one_vs_all import OneVsAll
from spherekeras.losses.triplet import TripletLoss

__all__ = ["CrossEntropy", "OneVsAll", "TripletLoss"]
