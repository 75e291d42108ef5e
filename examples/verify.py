"""Load a preset from the zoo and ask whether two photographs show one person."""

import pathlib
import tempfile

import cv2

import spherekeras as sk
from spherekeras.data.drawn_faces import draw_face

folder = pathlib.Path(tempfile.mkdtemp())
for name, identity, picture in (("a", 7, 0), ("b", 7, 1), ("c", 8, 0)):
    image = draw_face(identity, picture, size=(320, 320)).image
    cv2.imwrite(str(folder / f"{name}.jpg"), image[..., ::-1])

print("presets:", ", ".join(sk.list_presets()))
faces = sk.load_preset("dlib_resnet")
print("embeddings:", faces.embed([folder / "a.jpg", folder / "b.jpg"]).shape)

for a, b in (("a", "b"), ("a", "c")):
    answer = faces.verify(folder / f"{a}.jpg", folder / f"{b}.jpg")
    verdict = "one person" if answer.same else "two people"
    print(f"{a} and {b}: {verdict}, similarity {answer.similarity:.3f}, "
          f"threshold {answer.threshold:.3f} (FAR {answer.far:g} on {answer.data})")  # fmt: skip

(folder / "empty.jpg").write_bytes(cv2.imencode(".jpg", image * 0)[1].tobytes())
try:
    faces.embed(folder / "empty.jpg")
except sk.NoFaceError as error:
    print(error)
