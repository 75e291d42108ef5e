"""Backbones: networks from a normalised face crop to an embedding."""

from spherekeras.backbones.dlib_resnet import DlibResNet
from spherekeras.backbones.iresnet import IResNet
from spherekeras.backbones.mobile_facenet import MobileFaceNet
from spherekeras.backbones.sfnet import SFNet
from spherekeras.backbones.sphereface_net import SphereFaceNet

__all__ = ["DlibResNet", "IResNet", "MobileFaceNet", "SFNet", "SphereFaceNet"]
