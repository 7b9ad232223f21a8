"""A GLB file made by hand: one textured rectangle that stands on its lower edge."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np

NUMBERS = {"f": 5126, "H": 5123}


def rectangle(path: Path, texture: np.ndarray, width: float = 2.0, height: float = 1.0) -> Path:
    """Write a rectangle in the plane z = 0 that looks to +z, y up, its texture (BGR or BGRA) upright."""
    w = width / 2
    corners = np.array([[-w, 0, 0], [w, 0, 0], [w, height, 0], [-w, height, 0]], "<f4")
    uv, faces = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4"), np.array([0, 1, 2, 0, 2, 3], "<u2")
    image = cv2.imencode(".png", texture)[1].tobytes()
    parts = [corners.tobytes(), uv.tobytes(), faces.tobytes(), image]
    starts = np.cumsum([0, *(-(-len(p) // 4) * 4 for p in parts)]).tolist()
    binary = b"".join(p + b"\0" * (-len(p) % 4) for p in parts)
    kinds = (("VEC3", "f", 4), ("VEC2", "f", 4), ("SCALAR", "H", 6))
    accessors = [
        {"bufferView": k, "componentType": NUMBERS[n], "count": c, "type": t} for k, (t, n, c) in enumerate(kinds)
    ]
    accessors[0] |= {"min": corners.min(0).tolist(), "max": corners.max(0).tolist()}
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}
    views = zip(starts, parts, strict=False)
    described = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, "alphaMode": "MASK"}],
        "textures": [{"source": 0}], "images": [{"bufferView": 3, "mimeType": "image/png"}], "accessors": accessors,
        "bufferViews": [{"buffer": 0, "byteOffset": s, "byteLength": len(p)} for s, p in views],
        "buffers": [{"byteLength": len(binary)}],
    }  # fmt: skip
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
    return path
