"""Converters: published weights of other libraries as Keras models."""

from spherekeras.converters.caffe import convert_caffe, read_caffe
from spherekeras.converters.channels_first import Converted
from spherekeras.converters.clcarwin import convert_clcarwin
from spherekeras.converters.dlib_resnet import convert_dlib, read_dlib
from spherekeras.converters.opensphere import convert_opensphere

__all__ = [
    "Converted",
    "convert_caffe",
    "convert_clcarwin",
    "convert_dlib",
    "convert_opensphere",
    "read_caffe",
    "read_dlib",
]
