"""What lies below a folder: known data sets by their layout, else videos and folders of frames.

KITTI raw, KITTI odometry, TUM RGB-D, Sintel with depth and plain footage give recordings; KITTI 2015, Sintel,
FlyingChairs and Middlebury give pairs with flow. A tree may mix them. Other files are ignored, stills are skipped and
named.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64

from glvid.errors import InputError, UsageError
from glvid.formats import FLO_TAG, stated_size
from glvid.geometry import rotation
from glvid.types import FlowPair, Intrinsics, Recording
from glvid.video.pictures import natural, picture_size

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts")
PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
DAY, DRIVE = re.compile(r"\d{4}_\d\d_\d\d"), re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_(sync|extract)")
SOON = 0.02  # s: a pose belongs to the picture taken within this of it (TUM)


@dataclass(frozen=True)
class Found:
    """All there is below some folders, and a sentence for every folder that was recognised or skipped."""

    recordings: tuple[Recording, ...]
    pairs: tuple[FlowPair, ...]
    said: tuple[str, ...]


Item = Recording | FlowPair | str


def survey(folders: Iterable[Path], exclude: Iterable[str] = ()) -> Found:
    """Everything below `folders` but what matches `exclude`; see `excluded`.

    Raises UsageError where a folder is missing, InputError, naming the first path, where a known layout is broken.
    """
    patterns, items = list(exclude), []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no folder at {folder}: correct --data")
        items += _below(folder, folder, patterns)
    recordings, pairs, said = (tuple(x for x in items if isinstance(x, kind)) for kind in (Recording, FlowPair, str))
    return Found(recordings, pairs, said)


def excluded(path: Path, patterns: Iterable[str]) -> bool:
    """Does any run of the absolute path's parts match a pattern (`wild/lady_running*`, `rgbd/*`, `kitti_odom_07_a`)?"""
    parts = path.absolute().parts
    for pattern in patterns:
        n = pattern.strip("/").count("/") + 1
        if any(fnmatch("/".join(parts[k : k + n]), pattern.strip("/")) for k in range(len(parts) - n + 1)):
            return True
    return False


def read_patterns(arguments: Iterable[str]) -> list[str]:
    """Patterns as given; `@FILE` stands for the lines of that file. Raises UsageError where it cannot be read."""
    patterns = []
    for text in arguments:
        if not text.startswith("@"):
            patterns.append(text)
            continue
        try:
            if not os.path.isfile(text[1:]):
                raise OSError("no regular file")
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the patterns in {text[1:]}: {error}; correct --exclude") from error
        patterns += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return patterns


def _below(folder: Path, root: Path, patterns: list[str]) -> Iterator[Item]:
    """Items of one folder and of those in it; a folder of a known layout is taken as a whole."""
    if excluded(folder, patterns) or folder.name == "proj_depth":
        return
    try:
        inside = sorted(folder.iterdir(), key=lambda p: natural(p.name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); make it readable or --exclude it") from error
    if (folder / "run.json").exists() and (folder / "frames.csv").exists():
        yield f"{_named(folder, root)}: skipped, a run of glvid"
        return
    folders = [p for p in inside if p.is_dir() and not p.name.startswith(".")]
    for layout in (kitti_day, kitti_drive, kitti_odometry, tum, kitti_flow, sintel, chairs, middlebury):
        items = layout(folder, folders, patterns)
        if items is not None:
            kept = [x for x in items if not excluded(x.path if isinstance(x, Recording) else x.first, patterns)]
            yield f"{_named(folder, root)}: {_count(kept)}"
            yield from kept
            return
    yield from plain(folder, [p for p in inside if not excluded(p, patterns)], _named(folder, root))
    for child in folders:
        yield from _below(child, root, patterns)


def _named(folder: Path, root: Path) -> str:
    """A folder as its user would: from the folder asked about on."""
    return str(Path(root.name) / folder.relative_to(root))


def _count(items: list[Item]) -> str:
    recordings, pairs = ([x for x in items if isinstance(x, kind)] for kind in (Recording, FlowPair))
    said = []
    if recordings:
        pictures = sum(len(r.pictures) for r in recordings)
        said.append(f"{recordings[0].kind}, {len(recordings)} recordings, {pictures} pictures")
    if pairs:
        said.append(f"{pairs[0].kind}, {len(pairs)} pairs")
    return "; ".join(said) or "nothing left of it"


def _pictures(folder: Path) -> tuple[Path, ...]:
    files = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    return tuple(sorted(files, key=lambda p: natural(p.name)))


def _size(picture: Path) -> tuple[int, int]:
    size = stated_size(picture)
    if size is None:
        raise InputError(f"{picture}: cannot be read as a picture; replace or remove it")
    return size


def _text(path: Path) -> list[str]:
    """Lines but comments and blank ones."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("no regular file")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy the data set anew") from error
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _numbers(path: Path, words: Iterable[str], known: bool = True) -> Float64[np.ndarray, " n"]:
    """Numbers, finite ones if they must be `known`."""
    try:
        numbers = np.array([float(x) for x in words])
    except ValueError as error:
        raise InputError(f"{path}: {error}; copy the data set anew") from error
    if known and not (np.abs(numbers) < 1e18).all():  # the squares, too
        raise InputError(f"{path}: holds a number that is not finite, or too large; copy the data set anew")
    return numbers


# --- KITTI ------------------------------------------------------------------------------------------------------------


def _calibration(path: Path, key: str, count: int) -> Float64[np.ndarray, " n"]:
    """The numbers after `key:` in one of KITTI's calibration files."""
    for line in _text(path):
        name, _, values = line.partition(":")
        if name.strip() == key and len(numbers := _numbers(path, values.split())) == count:
            return numbers
    raise InputError(f"{path}: holds no {key} of {count} numbers; copy the data set anew")


def _pinhole(P: Float64[np.ndarray, "3 4"], size: tuple[int, int]) -> Intrinsics:
    """KITTI's projection matrix as a camera: it counts from the centre of the first pixel, we from its corner."""
    focal, center = torch.tensor([P[0, 0], P[1, 1]]), torch.tensor([P[0, 2] + 0.5, P[1, 2] + 0.5])
    return Intrinsics(focal.float(), center.float(), size)


def _square(rows: Float64[np.ndarray, "*N 3 4"]) -> Float64[np.ndarray, "*N 4 4"]:
    last = np.broadcast_to([0.0, 0, 0, 1], (*rows.shape[:-2], 1, 4))
    return np.concatenate([rows, last], -2)


def kitti_day(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """One recording day of KITTI raw: `2011_09_26/2011_09_26_drive_0052_sync/image_0{2,3}/data`; None if it is none."""
    drives = [p for p in folders if DRIVE.fullmatch(p.name)]
    if not (DAY.fullmatch(folder.name) and (drives or (folder / "calib_cam_to_cam.txt").exists())):
        return None
    if not drives:
        return []
    items: list[Item] = []
    for drive in drives:
        if excluded(drive, patterns):
            continue
        cameras = [c for c in ("02", "03") if (drive / f"image_{c}" / "data").is_dir()]
        if not cameras:
            raise InputError(f"{drive}: a KITTI drive without image_02/data; copy it anew or --exclude it")
        items += [_drive(folder, drive, camera) for camera in cameras]
    return items


def kitti_drive(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """One drive of KITTI raw by itself; its calibration lies in the folder above, of its day."""
    cameras = [c for c in ("02", "03") if (folder / f"image_{c}" / "data").is_dir()]
    if not DRIVE.fullmatch(folder.name) or not cameras:
        return None
    return [_drive(folder.absolute().parent, folder, camera) for camera in cameras]


def _drive(day: Path, drive: Path, camera: str) -> Recording:
    cam, velo = day / "calib_cam_to_cam.txt", day / "calib_velo_to_cam.txt"
    pictures = _pictures(drive / f"image_{camera}" / "data")
    if not pictures:
        raise InputError(f"{drive / f'image_{camera}' / 'data'}: holds no picture; copy it anew or --exclude it")
    P = _calibration(cam, f"P_rect_{camera}", 12).reshape(3, 4)
    scans = tuple(_there(drive / "velodyne_points" / "data" / f"{p.stem}.bin") for p in pictures)
    maps = _kitti_depth(drive, camera)
    lidar_camera = None
    if any(scans):
        T = np.column_stack([_calibration(velo, "R", 9).reshape(3, 3), _calibration(velo, "T", 3)])
        R = np.eye(4)
        R[:3, :3] = _calibration(cam, "R_rect_00", 9).reshape(3, 3)
        lidar_camera = P @ R @ _square(T)
    return Recording(
        "KITTI raw", f"{drive.name}/image_{camera}", pictures[0].parent, pictures, _pinhole(P, _size(pictures[0])),
        depth=tuple(_there(maps / f"{p.stem}.png") for p in pictures), depth_unit=1 / 256,
        lidar=scans, lidar_camera=lidar_camera,
    )  # fmt: skip


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def _kitti_depth(drive: Path, camera: str) -> Path:
    """Projected depth: inside the drive, or in the layout of KITTI's depth download (`train|val/<drive>`) beside it."""
    inside = Path("proj_depth") / "groundtruth" / f"image_{camera}"
    root = drive.parent.parent
    for place in (drive, root / "train" / drive.name, root / "val" / drive.name):
        if (place / inside).is_dir():
            return place / inside
    return drive / inside


def kitti_odometry(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """KITTI odometry: `sequences/NN/image_{2,0}`, `sequences/NN/calib.txt`, `poses/NN.txt` where known."""
    if not (folder / "sequences").is_dir():
        return None
    sequences = sorted(p for p in (folder / "sequences").iterdir() if p.is_dir() and re.fullmatch(r"\d\d", p.name))
    if not sequences:
        return None
    items: list[Item] = []
    for sequence in sequences:
        if excluded(sequence, patterns):
            continue
        camera = next((c for c in (2, 0) if (sequence / f"image_{c}").is_dir()), None)
        if camera is None:
            raise InputError(f"{sequence}: a KITTI sequence without image_2 or image_0; copy it anew or --exclude it")
        pictures = _pictures(sequence / f"image_{camera}")
        if not pictures:
            raise InputError(f"{sequence / f'image_{camera}'}: holds no picture; copy it anew or --exclude it")
        P = _calibration(sequence / "calib.txt", f"P{camera}", 12).reshape(3, 4)
        poses, times = folder / "poses" / f"{sequence.name}.txt", sequence / "times.txt"
        items.append(
            Recording(
                "KITTI odometry", f"{folder.name}/{sequence.name}", pictures[0].parent, pictures,
                _pinhole(P, _size(pictures[0])), _odometry_poses(poses, len(pictures)) if poses.exists() else None,
                _times(times, len(pictures)) if times.exists() else np.arange(len(pictures)) / 10.0,
            )
        )  # fmt: skip
    return items


def _rows(path: Path, count: int, columns: int) -> Float64[np.ndarray, "N c"]:
    """A table of numbers with one row a picture."""
    rows = [_numbers(path, line.split(), known=False) for line in _text(path)]
    if len(rows) != count or any(len(r) != columns for r in rows):
        raise InputError(f"{path}: not {count} rows of {columns} numbers, one a picture; copy the data set anew")
    return np.stack(rows)


def _times(path: Path, count: int) -> Float64[np.ndarray, " N"]:
    times = _rows(path, count, 1)[:, 0]
    if not (np.abs(times) < 1e18).all():
        raise InputError(f"{path}: holds a time that is not finite; copy the data set anew")
    return times


def _odometry_poses(path: Path, count: int) -> Float64[np.ndarray, "N 4 4"]:
    rows = _rows(path, count, 12)
    rows[~(np.abs(rows) < 1e18).all(1)] = np.nan
    return _square(rows.reshape(-1, 3, 4))


def kitti_flow(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """KITTI 2015 or 2012 `training`: `image_2/000000_10.png`, `000000_11.png`, `flow_occ`, `flow_noc`."""
    images = next((p for p in folders if p.name in ("image_2", "colored_0", "image_0")), None)
    if images is None or not (folder / "flow_occ").is_dir():
        return None
    pairs: list[Item] = []
    for flow in sorted((folder / "flow_occ").glob("*_10.png")):
        first, second = images / flow.name, images / flow.name.replace("_10", "_11")
        _both(flow, first, second)
        name = f"{folder.name}/{flow.stem.removesuffix('_10')}"
        pairs.append(FlowPair("KITTI flow", name, first, second, flow, visible=_there(folder / "flow_noc" / flow.name)))
    return pairs


def _both(flow: Path, first: Path, second: Path) -> None:
    """Both pictures of a flow are there, and of its size; headers alone are read. Raises InputError."""
    size = flow_size(flow)
    for path in (first, second):
        if not path.exists():
            raise InputError(f"{path}: is missing, the picture that {flow.name} belongs to; copy the data set anew")
        if (found := picture_size(path)) != size:
            said = "cannot be read as a picture" if found is None else f"is {found[0]}x{found[1]} px"
            raise InputError(f"{path}: {said}, its flow {flow.name} {size[0]}x{size[1]}; copy the data set anew")


def flow_size(path: Path) -> tuple[int, int]:
    """Width and height of a stored flow, from its header. Raises InputError."""
    if path.suffix != ".flo" or not path.is_file():
        size = picture_size(path)
    else:
        with open(path, "rb") as file:
            head = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4")
        size = (int(head[1]), int(head[2])) if head[:1].view("<f4")[0] == np.float32(FLO_TAG) else None
    if size is None:
        raise InputError(f"{path}: is no flow; copy the data set anew")
    return size


# --- others -----------------------------------------------------------------------------------------------------------


def tum(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """TUM RGB-D: `rgb.txt` and, where there are, `depth.txt`, `groundtruth.txt`, `calibration.txt`."""
    if not (folder / "rgb.txt").exists() or not (folder / "rgb").is_dir():
        return None
    stamps, pictures = _listed(folder, "rgb.txt")
    depth_stamps, maps = _listed(folder, "depth.txt") if (folder / "depth.txt").exists() else (np.zeros(0), ())
    known = _named_numbers(folder / "calibration.txt") if (folder / "calibration.txt").exists() else {}
    camera = None
    if {"fx", "fy", "cx", "cy"} <= known.keys():
        fx, fy, cx, cy = (known[k] for k in ("fx", "fy", "cx", "cy"))
        camera = _pinhole(np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0]]), _size(pictures[0]))
    nearest = [int(np.abs(depth_stamps - t).argmin()) if len(maps) else -1 for t in stamps]
    depth = tuple(
        maps[k] if k >= 0 and abs(depth_stamps[k] - t) < SOON else None for k, t in zip(nearest, stamps, strict=True)
    )
    unit = 1 / known.get("depth_factor", 5000.0)
    poses = _tum_poses(folder / "groundtruth.txt", stamps) if (folder / "groundtruth.txt").exists() else None
    return [Recording("TUM RGB-D", folder.name, folder / "rgb", pictures, camera, poses, stamps, depth, unit)]


def _named_numbers(path: Path) -> dict[str, float]:
    """Lines `name number`."""
    lines = [line.split() for line in _text(path)]
    known = {line[0]: float(_numbers(path, line[1:2]).sum()) for line in lines if len(line) > 1}
    if not all(known[name] > 0 for name in ("fx", "fy", "depth_factor") if name in known):
        raise InputError(f"{path}: fx, fy and depth_factor must be above 0; copy the data set anew")
    return known


def _listed(folder: Path, name: str) -> tuple[Float64[np.ndarray, " N"], tuple[Path, ...]]:
    """Time stamps and files of one of TUM's lists."""
    rows = [line.split() for line in _text(folder / name)]
    files = tuple(folder / row[1] for row in rows if len(row) > 1)
    for file in files:
        if not file.is_relative_to(folder) or ".." in file.parts[len(folder.parts) :]:
            raise InputError(f"{folder / name}: lists what lies outside its folder ({file}); copy the data set anew")
        if not os.path.exists(file):
            raise InputError(f"{file}: is missing, {folder / name} lists it; copy the data set anew")
    if not files or len(files) != len(rows):
        raise InputError(f"{folder / name}: lists no pictures as `timestamp file`; copy the data set anew")
    return _numbers(folder / name, (row[0] for row in rows)), files


def _tum_poses(path: Path, stamps: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "N 4 4"]:
    """The pose nearest in time to every stamp; NaN where none is near."""
    rows = [_numbers(path, line.split(), known=False) for line in _text(path)]
    if not rows or any(len(r) != 8 for r in rows):
        raise InputError(f"{path}: not rows of `timestamp tx ty tz qx qy qz qw`; copy the data set anew")
    table = np.stack(rows)
    table = table[(np.abs(table) < 1e18).all(1) & (np.abs(table[:, 4:]).max(1) > 1e-9)]  # others say nothing
    if not len(table):
        return np.full((len(stamps), 4, 4), np.nan)
    poses = np.broadcast_to(np.eye(4), (len(stamps), 4, 4)).copy()
    for n, t in enumerate(stamps):
        row = table[np.abs(table[:, 0] - t).argmin()]
        poses[n, :3, :3], poses[n, :3, 3] = rotation(torch.from_numpy(row[4:8])).numpy(), row[1:4]
        if abs(row[0] - t) >= SOON:
            poses[n] = np.nan
    return poses


def sintel(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """MPI Sintel: `flow/SCENE/frame_0001.flo`, `depth/SCENE`, `camdata_left/SCENE` beside `clean` and `final`."""
    names = {p.name for p in folders}
    if not names & {"flow", "depth", "camdata_left"} or not names & {"clean", "final"}:
        return None
    pairs: list[Item] = []
    for flow in sorted(
        p for p in (folder / "flow").glob("*/*") if re.fullmatch(r"frame_[0-9]{1,9}\.(flo|png)", p.name)
    ):
        scene, number = flow.parent.name, int(flow.stem.removeprefix("frame_"))
        for render in sorted(names & {"clean", "final"}):
            if not (folder / render / scene).is_dir():  # one of the two renders may be left out, or hold fewer scenes
                continue
            first, second = (folder / render / scene / f"frame_{n:04d}.png" for n in (number, number + 1))
            _both(flow, first, second)
            name = f"{render}/{scene}/{flow.stem}"
            invalid = _there(folder / "invalid" / scene / f"{flow.stem}.png")
            pairs.append(FlowPair(f"Sintel {render}", name, first, second, flow, invalid))
    scenes = sorted({p.parent.name for what in ("depth/*/*.dpt", "camdata_left/*/*.cam") for p in folder.glob(what)})
    films = [folder / max(names & {"clean", "final"}) / scene for scene in scenes]  # final: with blur and haze
    return [*(_sintel_scene(folder, film) for film in films if film.is_dir()), *pairs] or None


def _sintel_scene(folder: Path, film: Path) -> Recording:
    """A scene with what Sintel's depth download knows of it."""
    pictures = _pictures(film)
    if not pictures:
        raise InputError(f"{film}: holds no picture; copy the data set anew")
    files = [folder / "camdata_left" / film.name / f"{p.stem}.cam" for p in pictures]
    camera, poses = None, None
    if files[0].exists():
        K, cam_T_world = zip(*map(_sintel_camera, files), strict=True)
        camera, poses = _pinhole(np.column_stack([K[0], np.zeros(3)]), _size(pictures[0])), np.linalg.inv(cam_T_world)
    depth = tuple(_there(folder / "depth" / film.name / f"{p.stem}.dpt") for p in pictures)
    return Recording("Sintel", f"{film.parent.name}/{film.name}", film, pictures, camera, poses, None, depth)


def _sintel_camera(path: Path) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    """Intrinsics and world-to-camera pose of a `.cam` file: a float32 tag, then 9 and 12 float64."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError(0, "no regular file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy the data set anew") from error
    if len(data) != 4 + 8 * 21 or np.frombuffer(data[:4], "<f4")[0] != np.float32(FLO_TAG):
        raise InputError(f"{path}: is no camera of Sintel; copy the data set anew")
    numbers = np.frombuffer(data[4:], "<f8")
    if not (np.abs(numbers) < 1e18).all() or not abs(np.linalg.det(numbers[9:].reshape(3, 4)[:, :3])) > 1e-9:
        raise InputError(f"{path}: its numbers are those of no camera; copy the data set anew")
    return numbers[:9].reshape(3, 3), _square(numbers[9:].reshape(3, 4))


def chairs(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """FlyingChairs: `00001_img1.ppm`, `00001_img2.ppm`, `00001_flow.flo`; or with `-img0`, `-img1`, `-flow.png`."""
    pairs: list[Item] = []
    for flow in sorted(p for p in folder.iterdir() if re.fullmatch(r"\d+[-_](flow|gt)\.(flo|png)", p.name)):
        stem, mark = re.match(r"(\d+)([-_])", flow.name).groups()
        start = 0 if any((folder / f"{stem}{mark}img0{e}").exists() for e in PICTURES) else 1
        first, second = (
            next(
                (p for e in PICTURES if (p := folder / f"{stem}{mark}img{k}{e}").exists()),
                folder / f"{stem}{mark}img{k}",
            )
            for k in (start, start + 1)
        )
        _both(flow, first, second)
        pairs.append(FlowPair("FlyingChairs", f"chairs/{stem}", first, second, flow))
    return pairs or None


def middlebury(folder: Path, folders: list[Path], patterns: list[str]) -> list[Item] | None:
    """One scene of Middlebury flow: `frame10.png`, `frame11.png` and `flow10`, here or in `*-gt-flow/SCENE`."""
    first, second = folder / "frame10.png", folder / "frame11.png"
    if not (first.exists() and second.exists()):
        return None
    places = [folder, *sorted(folder.parent.parent.glob(f"*gt-flow/{folder.name}"))]
    flow = next((p for place in places for e in (".flo", ".png") if (p := place / f"flow10{e}").exists()), None)
    if flow is None:
        return None
    _both(flow, first, second)
    return [FlowPair("Middlebury", f"middlebury/{folder.name}", first, second, flow)]


def plain(folder: Path, inside: list[Path], name: str) -> Iterator[Item]:
    """Videos in a folder, and the folder itself where it holds frames: at least three pictures of one size."""
    videos = [p for p in inside if p.is_file() and p.suffix.lower() in VIDEOS]
    if videos:
        yield f"{name}: {len(videos)} videos"
        yield from (Recording("video", path.stem, path) for path in videos)
    pictures = _pictures(folder)
    if not pictures:
        return
    sizes = {picture_size(p) for p in pictures}
    if None in sizes:
        broken = next(p for p in pictures if picture_size(p) is None)
        yield f"{name}: skipped, {broken.name} cannot be read as a picture"
    elif len(pictures) < 3 or len(sizes) > 1:
        what = f"{len(pictures)} pictures" + (f" of {len(sizes)} sizes" if len(sizes) > 1 else "")
        yield f"{name}: skipped, {what} are stills, no film"
    elif _depth_like(pictures[0]):
        yield f"{name}: skipped, 16-bit pictures (depth, flow) are no film"
    else:
        yield f"{name}: {len(pictures)} frames"
        yield Recording("frames", folder.name, folder, pictures)


def _depth_like(picture: Path) -> bool:
    sound = picture.suffix.lower() == ".png" and stated_size(picture) is not None
    image = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED) if sound else None
    return image is not None and image.dtype != np.uint8
