"""Fine-tune a preset on people of your own with A-Softmax: fine_tune.py [PRESET [PEOPLE]].

PEOPLE holds <person>/<crop>.png as `spherekeras align` writes them; else 50 people are drawn. Half
of the crops train; the others are searched for among the people."""

import sys
import tempfile

import keras
import numpy as np

import spherekeras as sk
from spherekeras.data import augmentation, drawn_faces, records
from spherekeras.teacher import turned

faces = sk.load_preset(sys.argv[1] if len(sys.argv) > 1 else "sphere4_asoftmax")
crops, labels = drawn_faces.drawn_crops(range(50), 8)
if len(sys.argv) > 2:
    people = records.pack(sys.argv[2], f"{tempfile.mkdtemp()}/records")
    crops, labels = turned(people, np.arange(len(people)), faces.config), people.labels
known, rng = np.arange(len(labels)) % 2 == 0, np.random.default_rng(0)
plan = augmentation.Augmentation(shift=2, zoom=0.05, contrast=0.2, erase=0.3)


def identified() -> tuple[float, np.ndarray]:
    rows = faces.embed_crops(crops)
    means = np.stack([rows[known & (labels == n)].mean(axis=0) for n in np.unique(labels)])
    return np.mean((rows[~known] @ means.T).argmax(axis=1) == labels[~known]), means


before, means = identified()
model = sk.Sequential([faces.backbone, sk.layers.ASoftmax(len(means), margin=4)])
model.build((None, *crops.shape[1:]))
model.layers[-1].kernel.assign(means.T)  # the classes begin where the people are
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), model.layers[-1].loss())
for _ in range(6):
    varied = [augmentation.augment(c, c.shape[:2], plan, rng.random(20)) for c in crops[known]]
    model.fit((np.float32(varied) - faces.config.offset) * faces.config.scale, labels[known])
print(f"identified: {before:.1%} before, {identified()[0]:.1%} after")
