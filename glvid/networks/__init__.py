"""The three networks: depth of one frame, flow of two, camera (motion and intrinsics) of two."""

from glvid.networks.camera import CameraConfig, CameraNet
from glvid.networks.depth import DepthConfig, DepthNet
from glvid.networks.flow import FlowConfig, FlowNet

KINDS = {"depth": (DepthNet, DepthConfig), "flow": (FlowNet, FlowConfig), "camera": (CameraNet, CameraConfig)}

__all__ = ["KINDS", "CameraConfig", "CameraNet", "DepthConfig", "DepthNet", "FlowConfig", "FlowNet"]
