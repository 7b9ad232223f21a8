"""A GLB file (glTF 2.0): the scene as points or a mesh, the camera's path as a line, and a camera that moves along it.

y is up, so the world is turned by half a circle about x; cameras look along -z. glTF means metres: where a run has no
metres, `extras` of the file and of its scene say so.
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glvid.exports.cloud import fuse
from glvid.exports.maps import meaning
from glvid.exports.mesh import mesh as fused_mesh
from glvid.exports.options import ExportOptions
from glvid.exports.ply import Cloud, Mesh
from glvid.exports.trajectories import CAM_T_OPENGL, YUP_T_WORLD
from glvid.files import atomic_write
from glvid.geometry import quaternion
from glvid.results import RunFolder

FLOAT, BYTE, INT = 5126, 5121, 5125  # component types
VERTICES, INDICES = 34962, 34963  # what a part of the buffer is for
POINTS, LINE, TRIANGLES = 0, 3, 4  # what primitives are drawn as
MATTE = {"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}, "doubleSided": True}
NEAR, FAR = 0.01, 1000.0  # of the camera, in median distances of the scene


@dataclass
class Buffer:
    """The binary part as it grows, and what the JSON part says of it."""

    data: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, array: np.ndarray, kind: str, component: int, target: int | None = None, **more: Any) -> int:
        """Number of the accessor of (N, ...) values; every one starts at a multiple of four bytes."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        self.data += array.tobytes() + bytes(-array.nbytes % 4)
        about = {"bufferView": len(self.views) - 1, "componentType": component, "count": len(array), "type": kind}
        self.accessors.append(about | more)
        return len(self.accessors) - 1

    def places(self, points: np.ndarray) -> int:
        """Accessor of positions, whose extent must be stated."""
        low, high = points.min(0).tolist(), points.max(0).tolist()
        return self.add(points, "VEC3", FLOAT, VERTICES, min=low, max=high)


def write_glb(run: RunFolder, folder: Path, options: ExportOptions) -> None:
    """`scene.glb`: points, or with `options.mesh` a mesh, of one shot; at time 0 the camera is the first row's."""
    buffer, poses = Buffer(), run.trajectory()
    scene = fused_mesh(run) if options.mesh else fuse(run, options.max_points)
    cloud = scene.vertices if isinstance(scene, Mesh) else scene
    meshes = [{"name": "camera path", "primitives": [_path(buffer, poses.world_T_cam)]}]
    if len(cloud.points):
        meshes.append({"name": "scene", "primitives": [_surface(buffer, scene)]})
    world_T_gl = YUP_T_WORLD @ poses.world_T_cam @ CAM_T_OPENGL
    turns = quaternion(torch.from_numpy(world_T_gl[:, :3, :3])).numpy()
    turns *= np.cumprod(np.where((turns * np.roll(turns, 1, 0)).sum(1) < 0, -1, 1))[:, None]
    nodes = [{"name": "camera", "camera": 0, "translation": world_T_gl[0, :3, 3].tolist()}]
    nodes[0]["rotation"] = turns[0].tolist()
    nodes += [{"name": mesh["name"], "mesh": k} for k, mesh in enumerate(meshes)]
    about = meaning(run)
    document = {
        "asset": {"version": "2.0", "generator": "glvid", "extras": about},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes))), "extras": about}],
        "nodes": nodes,
        "cameras": [_camera(run, cloud)],
        "meshes": meshes,
    }
    if isinstance(scene, Mesh):
        document["materials"] = [MATTE]
    if len(poses.times) > 1:
        document["animations"] = [_animation(buffer, poses.times, world_T_gl[:, :3, 3], turns)]
    document |= {"accessors": buffer.accessors, "bufferViews": buffer.views}
    document["buffers"] = [{"byteLength": len(buffer.data)}]
    atomic_write(folder / "scene.glb", glb(document, bytes(buffer.data)))


def glb(document: dict[str, Any], data: bytes) -> bytes:
    """The container: a header, a chunk of JSON padded with spaces, a binary chunk."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _surface(buffer: Buffer, scene: Cloud | Mesh) -> dict[str, Any]:
    """One primitive; colours have four bytes, so that every one is aligned."""
    cloud = scene.vertices if isinstance(scene, Mesh) else scene
    turn = np.float32([1, -1, -1])
    colors = np.concatenate([cloud.colors, np.full((len(cloud.colors), 1), 255, np.uint8)], 1)
    attributes = {"POSITION": buffer.places(cloud.points * turn)}
    attributes["COLOR_0"] = buffer.add(colors, "VEC4", BYTE, VERTICES, normalized=True)
    if not isinstance(scene, Mesh):
        return {"attributes": attributes, "mode": POINTS}
    if cloud.normals is not None:
        attributes["NORMAL"] = buffer.add(_unit(cloud.normals * turn), "VEC3", FLOAT, VERTICES)
    indices = buffer.add(scene.triangles.astype("<u4").ravel(), "SCALAR", INT, INDICES)
    return {"attributes": attributes, "indices": indices, "mode": TRIANGLES, "material": 0}


def _unit(normals: np.ndarray) -> np.ndarray:
    """Of length 1, as glTF demands; what has no direction points up."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.maximum(length, 1e-12), [0, 1, 0]).astype(np.float32)


def _path(buffer: Buffer, world_T_cam: np.ndarray) -> dict[str, Any]:
    centers = (world_T_cam[:, :3, 3] * [1, -1, -1]).astype(np.float32)
    return {"attributes": {"POSITION": buffer.places(centers)}, "mode": LINE}


def _camera(run: RunFolder, cloud: Cloud) -> dict[str, Any]:
    """glTF's camera is centred and has square pixels: the field of view is that of the height."""
    (fx, fy), (w, h) = run.intrinsics.focal.tolist(), run.size
    middle = float(np.median(np.linalg.norm(cloud.points, axis=1))) if len(cloud.points) else 1.0
    view = {"yfov": 2 * float(np.arctan(h / 2 / fy)), "aspectRatio": w * fy / (h * fx)}
    return {"type": "perspective", "perspective": view | {"znear": NEAR * middle, "zfar": FAR * middle}}


def _animation(buffer: Buffer, times: np.ndarray, places: np.ndarray, turns: np.ndarray) -> dict[str, Any]:
    since = (times - times[0]).astype(np.float32)
    clock = buffer.add(since, "SCALAR", FLOAT, min=[0.0], max=[float(since[-1])])
    moves = buffer.add(places.astype(np.float32), "VEC3", FLOAT)
    turned = buffer.add(turns.astype(np.float32), "VEC4", FLOAT)
    channels = [{"sampler": k, "target": {"node": 0, "path": p}} for k, p in enumerate(("translation", "rotation"))]
    samplers = [{"input": clock, "output": output, "interpolation": "LINEAR"} for output in (moves, turned)]
    return {"name": "camera", "channels": channels, "samplers": samplers}
