"""Presets timed side by side: a number each, whatever it is on this machine."""

import spherekeras as sk
from spherekeras.latency import latencies
from spherekeras.presets import PresetConfig
from spherekeras.provenance import processor


def test_every_preset_has_its_time() -> None:
    config = PresetConfig("SphereFaceNet", {"depth": 4}, "sphereface_112x96", 112, 96, 1 / 128, 127)
    faces = sk.FaceEmbedder(sk.backbones.SphereFaceNet(4), config)
    times = latencies([faces, faces])
    assert len(times) == 2 and min(times) > 0


def test_the_processor_has_a_name() -> None:
    assert processor().strip()
