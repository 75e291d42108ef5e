"""Converters: published weights of other libraries as Keras models."""

from spherekeras.converters.dlib_resnet import convert_dlib, read_dlib

__all__ = ["convert_dlib", "read_dlib"]
