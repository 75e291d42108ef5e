"""Write a preset as TFLite and ONNX, and run the TFLite file as a phone would."""

import pathlib
import tempfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import spherekeras as sk
from spherekeras.data.drawn_faces import drawn_crops

folder = pathlib.Path(tempfile.mkdtemp())
faces = sk.load_preset("mobile_asoftmax")
for quantization in ("float32", "float16", "dynamic"):
    print(sk.export.to_tflite(faces, folder / f"{quantization}.tflite", quantization))
print(sk.export.to_onnx(faces, folder / "model.onnx"))

# The file takes RGB pixels 0..255 and gives an embedding of unit length: nothing to get wrong.
interpreter = Interpreter(str(folder / "dynamic.tflite"))
run = interpreter.get_signature_runner()
crop = drawn_crops([3], 1)[0]
embedding = run(image=crop.astype("float32"))["embedding"]
print(f"cosine with Keras: {float(np.sum(embedding * faces.embed(crop))):.5f}")
