"""A triangle mesh of a run's static scene by TSDF fusion (Curless and Levoy 1996), with Open3D."""

import numpy as np

from glvid.exports.cloud import FAR, chosen, load_open3d, longest_shot, median_depth, views
from glvid.exports.ply import Cloud, Mesh
from glvid.results import RunFolder

VOXELS = 200  # per median depth: a voxel is 0.5 % of it
TRUNCATION = 4  # voxels on both sides of the surface


def mesh(run: RunFolder, voxel: float | None = None) -> Mesh:
    """The static surface of the longest shot; `voxel` in the run's unit, by default 0.5 % of the median depth.

    Views as for the cloud: static, no depth edges, nothing far. Raises UsageError when Open3D cannot be loaded.
    """
    o3d = load_open3d()
    rows = chosen(longest_shot(run))
    middle = median_depth(run, rows)
    voxel = voxel or middle / VOXELS
    color = o3d.pipelines.integration.TSDFVolumeColorType.RGB8
    volume = o3d.pipelines.integration.ScalableTSDFVolume(voxel, TRUNCATION * voxel, color)
    (fx, fy), (cx, cy) = run.intrinsics.focal.tolist(), run.intrinsics.center.tolist()
    # Open3D's pixel centres are whole numbers
    camera = o3d.camera.PinholeCameraIntrinsic(*run.size, fx, fy, cx - 0.5, cy - 0.5)
    limit = FAR * middle
    for view in views(run, rows, limit):
        depth = o3d.geometry.Image(np.nan_to_num(1 / view.inverse))  # 0 is unknown there
        image = o3d.geometry.Image(np.ascontiguousarray(view.image))
        picture = o3d.geometry.RGBDImage.create_from_color_and_depth(image, depth, 1.0, limit, False)
        volume.integrate(picture, camera, np.linalg.inv(view.world_T_cam))
    surface = volume.extract_triangle_mesh()
    surface.compute_vertex_normals()
    colors = np.rint(np.asarray(surface.vertex_colors) * 255).astype(np.uint8).reshape(-1, 3)
    vertices = np.asarray(surface.vertices, np.float32).reshape(-1, 3)
    normals = np.asarray(surface.vertex_normals, np.float32).reshape(-1, 3)
    return Mesh(Cloud(vertices, colors, normals), np.asarray(surface.triangles, np.int32).reshape(-1, 3))
