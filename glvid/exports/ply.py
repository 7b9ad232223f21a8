"""PLY files of clouds and meshes: our own bytes, so that a full disk is seen (Open3D reports success on it)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from glvid.files import atomic_write
from glvid.formats import reading

_TYPES = {"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"}
_TYPES |= {"float": "<f4", "double": "<f8"}
_FACE = np.dtype([("count", "u1"), ("indices", "<i4", 3)])


@dataclass(frozen=True)
class Cloud:
    """Points of one world (first camera of the shot: x right, y down, z forward), in the run's unit."""

    points: Float32[np.ndarray, "M 3"]
    colors: UInt8[np.ndarray, "M 3"]
    normals: Float32[np.ndarray, "M 3"] | None = None


@dataclass(frozen=True)
class Mesh:
    """Vertices, and triangles as three vertex numbers each, counter-clockwise seen from outside."""

    vertices: Cloud
    triangles: Int32[np.ndarray, "T 3"]


def write_ply(path: Path, shape: Cloud | Mesh) -> None:
    """Binary little endian: float32 x y z [nx ny nz], uchar red green blue, and a mesh's triangles.

    Points that are not finite must not be there (ValueError). Raises OutputError when the disk refuses.
    """
    cloud = shape.vertices if isinstance(shape, Mesh) else shape
    if not np.isfinite(cloud.points).all():
        raise ValueError("a point of the cloud is not finite")
    vertices = np.empty(len(cloud.points), _vertex_type(cloud.normals is not None))
    for names, values in (("xyz", cloud.points), (("nx", "ny", "nz"), cloud.normals)):
        for k, name in enumerate(names) if values is not None else ():
            vertices[name] = values[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors[:, k]
    names = {"<f4": "float", "|u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {names[vertices.dtype[name].str]} {name}" for name in vertices.dtype.names]
    faces = b""
    if isinstance(shape, Mesh):
        header += [f"element face {len(shape.triangles)}", "property list uchar int vertex_indices"]
        faces = _faces(shape.triangles).tobytes()
    atomic_write(Path(path), ("\n".join([*header, "end_header"]) + "\n").encode() + vertices.tobytes() + faces)


def _vertex_type(normals: bool) -> np.dtype:
    floats = ("x", "y", "z", "nx", "ny", "nz") if normals else ("x", "y", "z")
    return np.dtype([(n, "<f4") for n in floats] + [(n, "u1") for n in ("red", "green", "blue")])


def _faces(triangles: Int32[np.ndarray, "T 3"]) -> np.ndarray:
    faces = np.empty(len(triangles), _FACE)
    faces["count"], faces["indices"] = 3, triangles
    return faces


def read_ply(path: Path) -> Cloud | Mesh:
    """Inverse of `write_ply`; scalar vertex properties of any type and order will do, faces must be triangles.

    Raises InputError for a missing file, another format, or a length that does not match the header.
    """
    with reading(path):
        data = Path(path).read_bytes()
        head, mark, body = data.partition(b"end_header\n")
        lines = [line.split() for line in head.decode("ascii").splitlines()]
        if not mark or lines[0] != ["ply"] or lines[1][1] != "binary_little_endian":
            raise ValueError("not a binary little endian PLY file")
        counts = {line[1]: int(line[2]) for line in lines if line[0] == "element"}
        scalars = [(line[2], _TYPES[line[1]]) for line in lines if line[0] == "property" and line[1] != "list"]
        vertices = np.frombuffer(body, scalars, counts["vertex"])
        if len(body) != vertices.nbytes + counts.get("face", 0) * _FACE.itemsize:
            raise ValueError(f"{len(body)} bytes after the header do not fit it")
        cloud = Cloud(_columns(vertices, "xyz", np.float32), _columns(vertices, ("red", "green", "blue"), np.uint8))
    if "nx" in vertices.dtype.names:
        cloud = Cloud(cloud.points, cloud.colors, _columns(vertices, ("nx", "ny", "nz"), np.float32))
    if "face" not in counts:
        return cloud
    return Mesh(cloud, np.frombuffer(body, _FACE, offset=vertices.nbytes)["indices"].astype(np.int32))


def _columns(vertices: np.ndarray, names: str | tuple[str, ...], dtype: type) -> np.ndarray:
    return np.stack([vertices[name] for name in names], 1).astype(dtype)
