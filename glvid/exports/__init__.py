"""What can be made of a run folder, never of live objects."""

from pathlib import Path

from glvid.exports.cloud import MAX_POINTS, chosen, clean, fuse, longest_shot, with_normals
from glvid.exports.mesh import mesh as fused_mesh
from glvid.exports.ply import Mesh, write_ply
from glvid.results import RunFolder


def export_ply(
    run: RunFolder, path: Path, as_mesh: bool = False, cleaned: bool = False, max_points: int = MAX_POINTS
) -> int:
    """The run's static scene as a PLY file, a cloud or a mesh; returns its number of points.

    `cleaned` drops outliers of a cloud and adds normals. Raises UsageError where Open3D is needed and cannot be loaded,
    OutputError when the file cannot be written.
    """
    scene = fused_mesh(run) if as_mesh else fuse(run, max_points)
    if cleaned and not isinstance(scene, Mesh):
        cameras = run.trajectory().world_T_cam[chosen(longest_shot(run)), :3, 3]
        scene = with_normals(clean(scene), cameras)
    write_ply(path, scene)
    return len(scene.vertices.points if isinstance(scene, Mesh) else scene.points)
