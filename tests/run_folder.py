"""The contract of the run folder (`glvid-run/1`) as a check. Imports nothing of glvid.

python tests/run_folder.py RUN...        one line for every folder; exit code 1 if any breaks a rule
check(Path("clip.glvid"))                raises AssertionError that names the rule
"""

import csv
import json
import math
import re
import sys
from pathlib import Path

import av
import cv2
import numpy as np

KEYS = (
    "schema status glvid input options device precision models refine depth flow camera frames seconds "
    "peak_memory_mb warnings"
).split()
INNER = {
    "input": "path width height rotation fps frames lost duration_s",
    "refine": "mode steps loss_first loss_last seconds",
    "depth": "kind format width height scale unit scale_source",
    "flow": "format width height",
    "seconds": "decode predict solve refine write total",
}
CAMERA = (
    "model fx fy cx cy width height pixel_center source fx_sigma observable "
    "source_fx source_fy source_cx source_cy source_width source_height"
).split()
HEADER = "index,time_s,name,depth,flow,mask,image,shot"
KINDS = ("depth", "flow", "mask", "image")
FILES = ("run.json", "camera.json", "frames.csv", "trajectory.txt", "preview.mp4", "scene.ply")
UNSAID = 0.01  # share of pixels about which a map may say nothing


def check(run: Path) -> None:
    """Raises AssertionError, its message the rule that the run folder breaks."""
    run = Path(run)
    assert run.is_dir(), f"{run}: is no folder"
    info = check_info(run)
    kept = info["options"].get("keep", KINDS)
    kept = kept.split(",") if isinstance(kept, str) else kept
    for name in FILES:
        needed = {"preview.mp4": {"depth", "image"}, "scene.ply": {"depth"}}.get(name, set()) <= set(kept)
        assert (run / name).is_file() or not needed, f"{name}: is missing"
    left = [path.name for path in run.rglob("*") if path.name.startswith(".") or path.name.endswith((".part", ".tmp"))]
    assert not left, f"left-over temporary file: {left[0]}"
    camera = check_camera(run, info)
    rows = check_frames(run, info, kept)
    check_trajectory(run, rows)
    for number, row in enumerate(rows):
        check_maps(run, row, info, (camera["width"], camera["height"]), number)
    if (run / "preview.mp4").exists():
        check_preview(run, len(rows))
    if (run / "scene.ply").exists():
        check_scene(run, info)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"JSON holds {name}")


def check_info(run: Path) -> dict:
    """run.json: every required key, a finished status, plain JSON."""
    assert (run / "run.json").is_file(), "run.json: is missing"
    info = json.loads((run / "run.json").read_text(), parse_constant=refuse_constant)
    assert info.get("schema") == "glvid-run/1", "run.json: schema is not glvid-run/1"
    missing = [key for key in KEYS if key not in info]
    missing += [
        f"{part}.{key}" for part, keys in INNER.items() for key in keys.split() if key not in info.get(part, {})
    ]
    assert not missing, f"run.json: lacks {missing[0]}"
    assert info["status"] in ("complete", "partial"), f"run.json: status is {info['status']}"
    assert bool(info["input"]["lost"]) == (info["status"] == "partial"), "run.json: partial if and only if frames lost"
    models = info["models"].values() if isinstance(info["models"], dict) else info["models"]
    for model in models:
        assert {"name", "sha256", "licence"} <= model.keys(), "run.json: a model lacks name, sha256 or licence"
    assert info["refine"]["mode"] in ("none", "params", "output", "both"), "run.json: unknown refine.mode"
    depth = info["depth"]
    assert depth["kind"] == "depth" and depth["unit"] in ("m", "scene"), "run.json: depth kind or unit"
    assert math.isfinite(depth["scale"]) and depth["scale"] > 0, "run.json: depth.scale is not positive"
    assert all(isinstance(text, str) for text in info["warnings"]), "run.json: warnings are not sentences"
    assert all(seconds >= 0 for seconds in info["seconds"].values()), "run.json: negative seconds"
    assert info["peak_memory_mb"] > 0, "run.json: peak_memory_mb"
    return info


def check_camera(run: Path, info: dict) -> dict:
    """camera.json: every key, believable values, the source camera its image at the source's size."""
    camera = json.loads((run / "camera.json").read_text(), parse_constant=refuse_constant)
    missing = [key for key in CAMERA if key not in camera]
    assert not missing, f"camera.json: lacks {missing[0]}"
    assert camera == info["camera"], "camera.json: differs from run.json"
    assert camera["model"] == "PINHOLE" and camera["pixel_center"] == 0.5, "camera.json: model or pixel_center"
    assert camera["source"] in ("predicted", "solved", "given"), "camera.json: source"
    assert isinstance(camera["observable"], bool), "camera.json: observable is no bool"
    assert camera["fx_sigma"] is None or camera["fx_sigma"] >= 0, "camera.json: fx_sigma"
    size = (camera["width"], camera["height"])
    assert camera["fx"] > 0 and camera["fy"] > 0, "camera.json: focal length is not positive"
    assert 0 < camera["cx"] < size[0] and 0 < camera["cy"] < size[1], "camera.json: centre outside the image"
    for part in ("depth", "flow"):
        assert (info[part]["width"], info[part]["height"]) == size, f"run.json: {part} size is not the camera's"
    assert max(size) <= info["options"].get("max_size", 1280), "maps are larger than --max-size"
    for axis, side in (("x", "width"), ("y", "height")):
        ratio = camera[f"source_{side}"] / camera[side]
        for key in (f"f{axis}", f"c{axis}"):
            assert math.isclose(camera[f"source_{key}"], camera[key] * ratio, rel_tol=1e-3), (
                f"camera.json: source_{key}"
            )
    return camera


def check_frames(run: Path, info: dict, kept: list[str]) -> list[dict]:
    """frames.csv: header, order, paths numbered by row, flow but at the end of a shot."""
    text = (run / "frames.csv").read_text()
    assert text.splitlines()[0] == HEADER, "frames.csv: header"
    rows = list(csv.DictReader(text.splitlines()))
    assert rows, "frames.csv: no frame"
    suffix = {"depth": "png", "flow": info["flow"]["format"], "mask": "png", "image": "jpg"}
    for number, row in enumerate(rows):
        following = rows[number + 1] if number + 1 < len(rows) else None
        last = following is None or following["shot"] != row["shot"]
        for kind in KINDS:
            there = kind in kept and not (kind == "flow" and last)
            expected = f"{kind}/{number:06d}.{suffix[kind]}" if there else ""
            assert row[kind] == expected, f"frames.csv: row {number}: {kind} is {row[kind]!r}, not {expected!r}"
            assert not expected or (run / expected).is_file(), f"{expected}: is missing"
        if following:
            assert int(following["index"]) > int(row["index"]), f"frames.csv: index falls after row {number}"
            assert float(following["time_s"]) > float(row["time_s"]), f"frames.csv: time falls after row {number}"
            assert int(following["shot"]) - int(row["shot"]) in (0, 1), f"frames.csv: shot jumps after row {number}"
    assert rows[0]["shot"] == "0", "frames.csv: shots do not count from 0"
    assert len(info["frames"]) == len(rows), "run.json: frames are not the rows of frames.csv"
    for said, row in zip(info["frames"], rows, strict=True):
        for key, value in row.items():
            same = abs(float(said[key]) - float(value)) < 1e-6 if key == "time_s" else str(said[key]) == value
            assert same, f"run.json: frames differ from frames.csv in {key}"
    return rows


def check_trajectory(run: Path, rows: list[dict]) -> None:
    """trajectory.txt: TUM, one pose per row, identity at the start of every shot."""
    lines = (run / "trajectory.txt").read_text().splitlines()
    assert len(lines) == len(rows), f"trajectory.txt: {len(lines)} poses for {len(rows)} frames"
    number = r"-?\d+(\.\d+)?(e[-+]\d+)?"
    for k, line in enumerate(lines):
        assert re.fullmatch(rf"{number}( {number}){{7}}", line), f"trajectory.txt: line {k + 1} is not TUM: {line!r}"
    values = np.array([line.split() for line in lines], np.float64)
    quaternions = values[:, 4:]
    assert np.abs(np.linalg.norm(quaternions, axis=1) - 1).max() < 1e-6, "trajectory.txt: a quaternion is not unit"
    for k, row in enumerate(rows):
        assert abs(values[k, 0] - float(row["time_s"])) < 1e-6, f"trajectory.txt: time of line {k + 1}"
        if k == 0 or rows[k - 1]["shot"] != row["shot"]:
            offset = np.abs(values[k, 1:] * np.sign(values[k, 7]) - [0, 0, 0, 0, 0, 0, 1]).max()
            assert offset < 1e-6, f"trajectory.txt: line {k + 1} starts a shot and is not the identity"
        else:
            assert quaternions[k] @ quaternions[k - 1] >= 0, f"trajectory.txt: quaternion sign jumps at line {k + 1}"


def picture(run: Path, name: str, dtype: type, channels: int, size: tuple[int, int]) -> np.ndarray:
    """A stored map; AssertionError unless of this type and size."""
    array = cv2.imread(str(run / name), cv2.IMREAD_UNCHANGED)
    assert array is not None, f"{name}: cannot be decoded"
    found = (array.dtype, 1 if array.ndim == 2 else array.shape[2])
    assert found == (np.dtype(dtype), channels), f"{name}: is {found[0]} with {found[1]} channels"
    assert array.shape[1::-1] == size, f"{name}: is {array.shape[1]}x{array.shape[0]}, not {size[0]}x{size[1]}"
    return array


def check_maps(run: Path, row: dict, info: dict, size: tuple[int, int], number: int) -> None:
    """Depth 16-bit and dense, flow KITTI or .flo, mask 8-bit, image a JPEG; all of one size."""
    if row["depth"]:
        depth = picture(run, row["depth"], np.uint16, 1, size)
        assert (depth == 0).mean() <= UNSAID, f"{row['depth']}: is not dense"
        assert (depth == 65535).mean() < 0.9, f"{row['depth']}: is clamped nearly everywhere"
    if row["flow"].endswith(".flo"):
        check_flo(run, row["flow"], size)
    elif row["flow"]:
        flow = picture(run, row["flow"], np.uint16, 3, size)
        assert set(np.unique(flow[..., 0])) <= {0, 1}, f"{row['flow']}: valid is neither 0 nor 1"
        assert (flow[..., 0] == 0).mean() <= 0.5, f"{row['flow']}: is invalid nearly everywhere"
        assert (flow[flow[..., 0] == 0] == 0).all(), f"{row['flow']}: invalid pixels hold a flow"
    if row["mask"]:
        picture(run, row["mask"], np.uint8, 1, size)
    if row["image"]:
        assert (run / row["image"]).read_bytes()[:3] == b"\xff\xd8\xff", f"{row['image']}: is no JPEG"
        picture(run, row["image"], np.uint8, 3, size)


def check_flo(run: Path, name: str, size: tuple[int, int]) -> None:
    data = (run / name).read_bytes()
    assert data[:4] == b"PIEH", f"{name}: is no .flo"
    assert tuple(np.frombuffer(data, "<i4", 2, 4)) == size, f"{name}: has another size"
    assert len(data) == 12 + 8 * size[0] * size[1], f"{name}: has a wrong length"
    assert np.isfinite(np.frombuffer(data, "<f4", offset=12)).all(), f"{name}: holds NaN"


def check_preview(run: Path, frames: int) -> None:
    """preview.mp4: as many pictures as rows, three panels wide."""
    with av.open(str(run / "preview.mp4")) as video:
        shown = [(frame.width, frame.height) for frame in video.decode(video=0)]
    assert len(shown) == frames, f"preview.mp4: {len(shown)} frames, not {frames}"
    assert shown[0][0] <= 1920, "preview.mp4: wider than 1920 px"


def check_scene(run: Path, info: dict) -> None:
    """scene.ply: binary little endian, float32 x y z, uchar red green blue, finite, whole, capped."""
    data = (run / "scene.ply").read_bytes()
    head, mark, body = data.partition(b"end_header\n")
    lines = [line for line in head.decode("ascii", "replace").splitlines() if not line.startswith("comment")]
    assert mark and lines[:2] == ["ply", "format binary_little_endian 1.0"], "scene.ply: is no binary PLY"
    count = re.fullmatch(r"element vertex (\d+)", lines[2])
    assert count, "scene.ply: the first element is no vertex"
    floats = ["x", "y", "z"] + (["nx", "ny", "nz"] if "property float nx" in lines else [])
    expected = [f"property float {n}" for n in floats] + [f"property uchar {n}" for n in ("red", "green", "blue")]
    assert lines[3:] == expected, "scene.ply: properties are not float x y z, uchar red green blue"
    step = 4 * len(floats) + 3
    assert len(body) == int(count[1]) * step, "scene.ply: is cut or too long"
    points = np.frombuffer(body, np.uint8).reshape(-1, step)[:, :12].copy().view("<f4")
    assert np.isfinite(points).all(), "scene.ply: a point is not finite"
    assert len(points) <= info["options"].get("max_points", 2_000_000), "scene.ply: more points than --max-points"


def main(folders: list[str]) -> int:
    """Number of folders that break a rule, at most 1."""
    bad = 0
    for folder in folders:
        try:
            check(Path(folder))
            sys.stdout.write(f"{folder}: obeys the contract\n")
        except AssertionError as error:
            bad = 1
            sys.stdout.write(f"{folder}: {error}\n")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
