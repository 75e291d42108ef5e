"""Converters: published weights of other libraries as Keras models."""

from spherekeras.converters.dlib_resnet import DlibResNet, convert_dlib, read_dlib

__all__ = ["DlibResNet", "convert_dlib", "read_dlib"]
