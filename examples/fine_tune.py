"""Fine-tune a preset on people of your own with A-Softmax: fine_tune.py [PRESET [PEOPLE]].
PEOPLE holds <person>/<crop>.jpg as `spherekeras align` writes them; else 50 people are drawn. Half
of each person's crops train, the others are named before and after."""

import sys
import tempfile

import keras
import numpy as np

import spherekeras as sk
from spherekeras.data import augmentation, drawn_faces, records
from spherekeras.teacher import turned

faces = sk.load_preset(sys.argv[1] if len(sys.argv) > 1 else "sphere4_asoftmax")
crops, labels = drawn_faces.drawn_crops(range(50), 8, faces.config.template)
if len(sys.argv) > 2:
    with tempfile.TemporaryDirectory() as scratch:
        people = records.pack(sys.argv[2], f"{scratch}/records")
        crops, labels = turned(people, np.arange(len(people)), faces.config), people.labels
assert min(np.bincount(labels)) > 1, "Every person needs two crops: one to learn, one to name."
known = (np.arange(len(labels)) - np.searchsorted(labels, labels)) % 2 == 0
plan = augmentation.Augmentation(mirror=True, shift=4, zoom=0.08, turn=5, contrast=0.3, erase=0.4)
keras.utils.set_random_seed(0)
rng, unit = np.random.default_rng(0), keras.utils.normalize
rows = unit(faces.embed_crops(crops))
means = unit(np.stack([rows[known & (labels == n)].mean(axis=0) for n in np.unique(labels)]))
before = np.mean((rows[~known] @ means.T).argmax(axis=1) == labels[~known])
crops = crops[..., ::-1] if faces.config.channel_order == "BGR" else crops
head = sk.layers.ASoftmax(len(means), margin=4, annealing=(30.0, 0.12, 1.0, 5.0))
pixels = keras.layers.Rescaling(faces.config.scale, -faces.config.offset * faces.config.scale)
model = sk.Sequential([keras.Input(crops.shape[1:]), pixels, faces.backbone, head])
head.kernel.assign(20 * means.T)  # the classes begin where the people are
model.compile(keras.optimizers.SGD(0.002, momentum=0.9), head.loss())
for _ in range(24):
    varied = [augmentation.augment(c, c.shape[:2], plan, rng.random(20)) for c in crops[known]]
    model.fit(np.float32(varied), labels[known])
after = np.mean(model.predict(crops[~known]).argmax(axis=1) == labels[~known])
print(f"identified: {before:.1%} before, {after:.1%} after")
