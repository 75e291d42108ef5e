"""MediaPipe's image embedder on a file of crops: python client.py FILE CROPS.npy."""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

options = vision.ImageEmbedderOptions(BaseOptions(model_asset_path=sys.argv[1]))
with vision.ImageEmbedder.create_from_options(options) as embedder:
    rows = []
    for crop in np.load(sys.argv[2]):
        image = mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(crop))
        rows.append(embedder.embed(image).embeddings[0].embedding.tolist())
print(json.dumps(rows))
