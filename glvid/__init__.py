"""glvid: depth, optical flow, camera path, intrinsics and a point cloud from any video."""

__version__ = "0.1.0"
