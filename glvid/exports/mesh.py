"""A triangle mesh of a run's static scene by TSDF fusion (Curless and Levoy 1996), with Open3D's voxel blocks."""

import numpy as np

from glvid.exports.cloud import chosen, load_open3d, longest_shot, median_depth, views
from glvid.exports.ply import Cloud, Mesh
from glvid.results import RunFolder

FAR = 4.0  # median depths; beyond, a voxel is smaller than what depth resolves, and memory grows with the square
VOXELS = 100  # per median depth, or per tenth of the path where that is longer: bounds the memory
TRUNCATION = 4.0  # voxels on both sides of the surface
BLOCK, BLOCKS = 16, 2000  # voxels along a block, and blocks to start with


def mesh(run: RunFolder, voxel: float | None = None) -> Mesh:
    """The static surface of the longest shot up to four median depths, where two views saw it.

    `voxel` is in the run's unit. Views as for the cloud: static, no depth edges, nothing clamped. (The legacy
    ScalableTSDFVolume of Open3D 0.20 takes floating-point depth for millimetres and stays empty.) Raises UsageError
    when Open3D cannot be loaded.
    """
    o3d = load_open3d()
    tensor, core = o3d.t.geometry, o3d.core
    rows = chosen(longest_shot(run))
    middle = median_depth(run, rows)
    reach = np.linalg.norm(run.trajectory().world_T_cam[rows, :3, 3], axis=1).max()
    voxel = voxel or max(middle, reach / 10) / VOXELS
    kinds = (core.float32, core.float32, core.float32)
    grid = tensor.VoxelBlockGrid(("tsdf", "weight", "color"), kinds, ((1), (1), (3)), voxel, BLOCK, BLOCKS)
    K = core.Tensor(run.intrinsics.matrix.numpy())  # these blocks truncate to pixels: centres at .5, as ours (measured)
    for view in views(run, rows, FAR * middle):
        depth = tensor.Image(core.Tensor(np.nan_to_num(1 / view.inverse)))  # 0 is unknown there
        image = tensor.Image(core.Tensor(view.image.astype(np.float32) / 255))
        cam_T_world = core.Tensor(np.linalg.inv(view.world_T_cam))
        scale = (1.0, FAR * middle, TRUNCATION)
        blocks = grid.compute_unique_block_coordinates(depth, K, cam_T_world, *scale)
        grid.integrate(blocks, depth, image, K, K, cam_T_world, *scale)
    return _taken(grid.extract_triangle_mesh(1.0 if len(rows) > 1 else 0.0))


def _taken(surface) -> Mesh:
    """Out of Open3D's tensors; colours there are 0..1."""
    vertices = surface.vertex.positions.numpy().astype(np.float32)
    colors = np.rint(surface.vertex.colors.numpy().clip(0, 1) * 255).astype(np.uint8)
    normals = surface.vertex.normals.numpy().astype(np.float32)
    return Mesh(Cloud(vertices, colors, normals), surface.triangle.indices.numpy().astype(np.int32))
