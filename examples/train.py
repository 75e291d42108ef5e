"""Train SphereFace-4 with A-Softmax on drawn faces, once as Sequential, once as Functional."""

import keras
import numpy as np

import spherekeras as sk
from spherekeras.data.drawn_faces import drawn_crops

crops, labels = drawn_crops(range(12), 12)
images = (crops.astype("float32") - 127.5) / 128
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# Sequential: the labels of fit reach the head, which puts its margin on them.
backbone = sk.backbones.SphereFaceNet(depth=4, embedding_dim=64)
model = sk.Sequential([backbone, sk.layers.ASoftmax(12, annealing=(100.0, 0.12, 1.0, 5.0))])
model.compile(keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=2.0), loss)
model.fit(images, labels, batch_size=24, epochs=5)
head = model.layers[-1]
print(f"lambda {head.annealing_lambda():.1f}, target angle {np.degrees(head.target_angle):.0f} deg")

# Functional: two inputs, any head, the same mathematics.
image, label = keras.Input((112, 96, 3)), keras.Input((), dtype="int32")
backbone = sk.backbones.SphereFaceNet(depth=4, embedding_dim=64)
logits = sk.layers.MarginLinear(12, m2=0.3, scale=16.0)(backbone(image), label)
model = keras.Model([image, label], logits)
model.compile(keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=2.0), loss)
model.fit([images, labels], labels, batch_size=24, epochs=5)

# The backbone alone is what is kept: people it has never seen, embedded.
strangers, who = drawn_crops(range(100, 106), 4)
embeddings = backbone.predict((strangers.astype("float32") - 127.5) / 128, verbose=0)
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
similarity = embeddings @ embeddings.T
same = who[:, None] == who[None, :]
others = ~np.eye(len(who), dtype=bool)
print(f"mean similarity: one person {similarity[same & others].mean():.2f}, "
      f"two people {similarity[~same].mean():.2f}")  # fmt: skip
