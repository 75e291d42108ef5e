"""Exporters: a preset as one file for phones (TFLite) or servers (ONNX), checked before it ships.

`to_tflite` and `to_onnx` write a file, run it in the client that will run it for real, and
return an `ExportReport`; a file that does not agree with Keras is never left behind.
Importing this package loads no TensorFlow.
"""

from spherekeras.export.onnx import to_onnx
from spherekeras.export.parity import ExportReport
from spherekeras.export.tflite import to_tflite

__all__ = ["ExportReport", "to_onnx", "to_tflite"]
