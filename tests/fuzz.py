"""Mutated inputs for everything of glvid that reads bytes it did not just write.

python tests/fuzz.py TARGET[,TARGET]|all [--seconds S | --runs N] [--seed N] [--out DIR]

A case is a folder of good files, made by glvid itself or by PyAV, some of them mutated: bits, pieces, edge values for
numbers, words for words, other structure for JSON, links and pipes for files. It depends on target, seed and number
alone. It must work or end in a child of GlvidError that names the file; anything else is a finding: another exception,
the end of the process, more than 5 s or 1 GB, a file touched that lies beside the case, NaN where none may be, code
that is run. Cases run in a child process, which is started again when it ends. Exit code 1 when something was found;
each finding is saved below --out as its case and how it ended.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1", "OPENCV_LOG_LEVEL": "SILENT"}

import av  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from glvid import claim, formats, given, metric, results, types, video, weights  # noqa: E402
from glvid.cli.ends import in_a_line  # noqa: E402
from glvid.errors import GlvidError  # noqa: E402

HANG, AGAIN = 5.0, 20.0  # s a case may take; s that one gets which took longer, since the machine may be busy
MEMORY = 1 << 30  # bytes a case may take
ROOM = 6 << 30  # bytes of addresses, so that what takes more does not take the machine along
SECRET = "secret of the fuzzer"


# ---------------------------------------------------------------- mutations

WORDS = (
    "0 -1 1 nan NaN inf -inf 1e999 -1e308 1e-320 1e400 9223372036854775808 -9223372036854775809 4294967296 65536 0x10 "
    "1_0 1e 1.5 .. ../secret.txt ../../secret.txt /etc/passwd \\ / . , : = ; # ' \" { } [ ] true null none None \0 "
    "\x1b[2J \u0663 \u00b2 \ufeff \ud7ff %s %n {0} $(id) `id` <script> png ../beside/keep.png "
    "depth/../../beside/keep.png"
).split(" ") + ["", " ", "\n", "\r", "\t", "9" * 400, "9" * 5000, "A" * 3000, "[" * 20_000]
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
    "", "x", "nan", "1", "../secret.txt", "../../secret.txt", "/etc/passwd", "\0", "\ud800", "a\nb", "\x1b[2J", "<b>",
    "A" * 3000, [], {}, [None], [0], [[]], [1.0, float("nan")], {"": None}, {"a": {"b": []}}, [0] * 3, ["x"], [{}],
)  # fmt: skip
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)
LARGE = 4_000_000  # bytes, from which on a file is not changed again: one line 50 times, 5 times over, is 300 million
TEXT = (".json", ".jsonl", ".txt", ".csv", ".toml", ".md", ".spec", "")


def mutated(data: bytes, suffix: str, draw: Random) -> bytes:
    """Other bytes for a file of this kind."""
    if suffix == ".json" and draw.random() < 0.7:
        return other_json(data, draw)
    change = other_text if suffix in TEXT and draw.random() < 0.8 else other_bytes
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        data = change(data, draw) if len(data) < LARGE else data
    return data


def other_bytes(data: bytes, draw: Random) -> bytes:
    """One change of bits, of a number at any place, of a piece, or of the length."""
    if not data:
        return draw.randbytes(draw.randrange(64))
    found, at = bytearray(data), draw.randrange(len(data))
    at = at if draw.random() < 0.5 else min(at, draw.randrange(min(len(data), 400)))  # headers are at the beginning
    end = min(len(data), at + draw.choice((1, 2, 4, 16, 200, len(data) // 3 + 1)))
    match draw.randrange(9):
        case 0:
            found[at] ^= 1 << draw.randrange(8)
        case 1:
            found[at] = draw.randrange(256)
        case 2:
            return bytes(found[:at])
        case 3:
            return bytes(found[:at] + found[end:])
        case 4:
            return bytes(found[:end] + found[at:end] * draw.choice((1, 2, 30)) + found[end:])
        case 5 | 6:
            width = draw.choice((1, 2, 4, 4, 8))
            value = draw.choice(EDGES) % (1 << 8 * width)
            found[at : at + width] = value.to_bytes(width, draw.choice(("little", "big")))
        case 7:
            found[at:end] = draw.randbytes(end - at)
        case 8:
            there = draw.randrange(len(data))
            found[at:end] = data[there : there + end - at]
    return bytes(found)


def other_text(data: bytes, draw: Random) -> bytes:
    """One word, or line, of a text put in another's place, left out, or made another."""
    parts = re.split(r"([\s,:;={}\[\]\"/]+)", data.decode("utf-8", "surrogateescape"))
    at = draw.randrange(len(parts))
    match draw.randrange(8):
        case 0 | 1 | 2:
            parts[at] = draw.choice(WORDS)
        case 3:
            parts[at] = parts[draw.randrange(len(parts))]
        case 4:
            del parts[at]
        case 5:
            parts.insert(at, draw.choice(WORDS))
        case 6:
            lines = "".join(parts).splitlines(True) or [""]
            k = draw.randrange(len(lines))
            parts = lines[:k] + lines[k : k + 1] * draw.choice((0, 0, 2, 50)) + lines[k + 1 :]
        case 7:
            parts = parts[:at] + [parts[at][: draw.randrange(1 + len(parts[at]))]]
    return "".join(parts).encode("utf-8", "surrogateescape" if draw.random() < 0.9 else "replace")


def other_json(data: bytes, draw: Random) -> bytes:
    """JSON of another structure: a value anywhere replaced, left out, repeated, or put under another name."""
    if draw.random() < 0.03:
        return b'{"a":' * 100_000 + b"[" * draw.choice((0, 100_000))
    try:
        record = json.loads(data)
    except ValueError:
        return other_bytes(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        record = replaced(record, draw)
    return json.dumps(record).encode()


def replaced(record: Any, draw: Random) -> Any:
    """A JSON value with one change somewhere in it."""
    if not isinstance(record, (dict, list)) or not record or draw.random() < 0.15:
        return draw.choice(VALUES) if draw.random() < 0.9 else [record]
    key = draw.choice(list(record)) if isinstance(record, dict) else draw.randrange(len(record))
    found = type(record)(record)
    what = draw.randrange(8)
    if what == 0:
        del found[key]
    elif what == 1 and isinstance(record, list):
        found.insert(key, found[key])
    elif what == 1:
        found[draw.choice(("", "x", *map(str, record)))] = found[key]
    else:
        found[key] = replaced(record[key], draw)
    return found


def other_file(path: Path, draw: Random) -> None:
    """Something else than a file under its name: nothing, a folder, a pipe, a link that leads out."""
    path.unlink(missing_ok=True)
    match draw.randrange(5):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(draw.choice(("../secret.txt", "../../beside/keep.png", str(path), "../nowhere")))
        case 3:
            path.write_bytes(b"")


# ---------------------------------------------------------------- what is fuzzed


@dataclass(frozen=True)
class Target:
    """`make` writes the good files into a folder; `run` reads the mutated folder; files matching `only` are mutated.

    `strange` is the share of cases in which a file becomes something else than a file. `named`: messages name the
    folder.
    """

    make: Callable[[Path], None]
    run: Callable[[Path, Random], None]
    only: str = "."
    strange: float = 0.0
    named: bool = True

    def case(self, seeds: Path, folder: Path, draw: Random) -> None:
        """Makes a case."""
        shutil.copytree(seeds, folder, symlinks=True)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and re.search(self.only, p.as_posix()))
        files = [p for p in files if p.stat().st_size < 1 << 20] or files
        for path in sorted({draw.choice(files) for _ in range(draw.choice((1, 1, 1, 2, 3)))}):
            if draw.random() < self.strange:
                other_file(path, draw)
            else:
                path.write_bytes(mutated(path.read_bytes(), path.suffix, draw))


def good(condition: Any, sentence: str) -> None:
    """Raises AssertionError where what was read is not what the reader's docstring promises."""
    if not condition:
        raise AssertionError(sentence)


def each_of(*calls: Callable[[], Any]) -> None:
    """All of the calls; a known error of one does not keep the others from being made, but is raised in the end."""
    known = None
    for call in calls:
        try:
            call()
        except GlvidError as error:
            known = error
    if known is not None:
        raise known


def write_maps(folder: Path) -> None:
    draw = np.random.default_rng(0)
    formats.write_depth(folder / "depth.png", draw.uniform(1, 9, (12, 16)), 0.001)
    formats.write_flow(folder / "flow.png", draw.normal(0, 9, (2, 12, 16)))
    formats.write_flow(folder / "flow.flo", draw.normal(0, 9, (2, 12, 16)))
    formats.write_mask(folder / "mask.png", draw.uniform(0, 1, (12, 16)))
    formats.write_image(folder / "image.jpg", draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = range(4)
    formats.write_trajectory(folder / "path.txt", formats.Trajectory(np.arange(4.0), poses))


def read_maps(folder: Path, draw: Random) -> None:
    def depth() -> None:
        said = formats.read_depth(folder / "depth.png", 0.001)
        good(said.dtype == np.float32 and not np.isinf(said).any() and not (said <= 0).any(), "depth that is none")

    def flow(name: str) -> None:
        said = formats.read_flow(folder / name)
        good(said.dtype == np.float32 and said.shape[0] == 2 and not np.isinf(said).any(), f"{name}: flow that is none")

    def mask() -> None:
        said = formats.read_mask(folder / "mask.png")
        good((said >= 0).all() and (said <= 1).all(), "mask beyond 0..1")

    def path() -> None:
        said = formats.read_trajectory(folder / "path.txt")
        check_path(said)

    each_of(depth, lambda: flow("flow.png"), lambda: flow("flow.flo"), mask, path)
    formats.read_image(folder / "image.jpg")


def check_path(said: formats.Trajectory) -> None:
    good(np.isfinite(said.times).all() and np.isfinite(said.world_T_cam).all(), "a path that is not finite")
    turns = said.world_T_cam[:, :3, :3]
    good(np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(initial=0) < 1e-5, "a rotation that is none")


# ---------------------------------------------------------------- run folders


def write_run(folder: Path) -> None:
    from room import room
    from room import write_run as written

    written(folder / "run", room(3, (48, 36)), flow_format="flo")
    info = json.loads((folder / "run/run.json").read_text())
    info |= {"command": "glvid infer clip.mp4", "quality": {"scale": [1.0, 1.1, None], "static": [0.5, 1, 1]}}
    info["refine"] |= {"mode": "both", "loss_first": 2.0, "loss_last": 1.0, "curve": [2.0, 1.5, 1.2, 1.0]}
    (folder / "run/run.json").write_text(json.dumps(info, indent=1))


def read_run(folder: Path, draw: Random) -> None:
    from glvid import api

    results.read_info(folder / "run")
    run = results.open_run(folder / "run")
    calls = [lambda: check_path(run.trajectory()), lambda: good(torch.isfinite(run.intrinsics.focal).all(), "focal")]
    for row in run.rows[:20]:
        good(np.isfinite(row.time_s), "a time that is not finite")
        calls += [lambda r=row: run.depth(r), lambda r=row: run.flow(r), lambda r=row: run.mask(r)]
        calls += [lambda r=row: run.image(r), lambda r=row: run.bytes_of(r, "image")]
    made = api.Run(run)
    calls += [lambda: made.times, lambda: made.shots, lambda: made.poses, lambda: made.K, lambda: made.cloud]
    calls += [lambda: json.dumps(run.info, allow_nan=False)]
    each_of(*calls)


def read_metric(folder: Path, draw: Random) -> None:
    spec = typed(folder / "scale.spec")
    file = str(folder / draw.choice(("tum.txt", "kitti.txt")))
    known = metric.parsed(re.sub(r"[./]*FILE", lambda _: file, spec))  # ..FILE is what a user may say, and leads out
    factor, source = metric.metres_per_unit(results.open_run(folder / "run"), known)
    good(0 < factor < np.inf, f"a scale of {factor} ({source})")


def typed(path: Path) -> str:
    """What a user may give, who may name any file there is: but here none of those that must not be touched."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return re.sub(r"[./]*(beside/)?(passwd|secret\.txt|keep\.png)", "absent", text)


def write_metric(folder: Path) -> None:
    write_run(folder)
    (folder / "scale.spec").write_text(Random(0).choice(SCALES))
    poses = [line.split() for line in (folder / "run/trajectory.txt").read_text().splitlines()]
    (folder / "tum.txt").write_text("".join(" ".join(p) + "\n" for p in poses))
    kitti = [f"1 0 0 {p[1]} 0 1 0 {p[2]} 0 0 1 {p[3]}\n" for p in poses]
    (folder / "kitti.txt").write_text("".join(kitti))


SCALES = ("camera-height=1.5", "distance=1:20,30:4.5", "path=FILE")


def any_metric(folder: Path, draw: Random) -> None:
    """Half of the specs are good ones, so that what they name is looked at."""
    if draw.random() < 0.6:
        (folder / "scale.spec").unlink(missing_ok=True)
        (folder / "scale.spec").write_text(draw.choice(SCALES))
    elif draw.random() < 0.7:
        text = draw.choice(SCALES).encode()
        (folder / "scale.spec").unlink(missing_ok=True)
        (folder / "scale.spec").write_bytes(other_text(text, draw))
    read_metric(folder, draw)


def read_page(folder: Path, draw: Random) -> None:
    from glvid.page import write_page

    write_page(results.open_run(folder / "run"), folder / "report.html")


def read_exports(folder: Path, draw: Random) -> None:
    from glvid import exports

    names = [name for name in exports.FORMATS if name not in ("mesh", "rrd", "blender")]
    run = results.open_run(folder / "run")
    for name in draw.sample(names, 3):
        exports.export(run, [name], folder / "exported", exports.ExportOptions(max_points=2000))


def write_exported(folder: Path) -> None:
    from glvid import exports

    write_run(folder)
    exports.export(results.open_run(folder / "run"), ["tum", "png16"], folder / "out")


def read_exported(folder: Path, draw: Random) -> None:
    from glvid import exports

    foreign = folder / "out" / draw.choice(("tum", "png16", "png16/depth")) / "mine.txt"
    if draw.random() < 0.3:
        foreign.parent.mkdir(parents=True, exist_ok=True)
        foreign.write_text(SECRET)
    run, there = results.open_run(folder / "run"), foreign.is_file()
    try:
        exports.export(run, ["tum", "png16"], folder / "out", exports.ExportOptions(overwrite=draw.random() < 0.8))
    finally:
        good(not there or foreign.is_file(), "a file that glvid did not write was removed")


def read_viewed(folder: Path, draw: Random) -> None:
    from glvid.viewer import content

    run = results.open_run(folder / "run")
    limits = content.limits_of(run)
    calls = [lambda: json.loads(content.facts_json(run, limits)), lambda: content.fused(run)]
    for row in run.rows[:5]:
        calls += [lambda r=row: content.depth_png(run, r), lambda r=row: r.image and content.image_jpg(run, r)]
        calls += [lambda r=row: r.flow and content.flow_png(run, r, limits)]
    each_of(*calls)


# ---------------------------------------------------------------- requests

REQUESTS = (
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /run.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: \"0\"\r\n\r\n",
    "GET /depth/0.png HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-9\r\nConnection: close\r\n\r\n",
    "HEAD /image/1.jpg HTTP/1.0\r\nHost: localhost:80\r\n\r\n",
    "GET /..%2f..%2fsecret.txt HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /cloud.bin HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
)  # fmt: skip


def write_requests(folder: Path) -> None:
    for k, text in enumerate(REQUESTS):
        (folder / f"{k}.txt").write_bytes(text.encode())


@cache
def served() -> Any:
    """A viewer of a good run, as long as the process lives."""
    from glvid.viewer import open_server

    folder = Path(tempfile.mkdtemp(prefix="served-"))
    write_run(folder)
    return open_server(results.open_run(folder / "run"), port=0).__enter__()


def read_requests(folder: Path, draw: Random) -> None:
    viewer = served()
    path = sorted(folder.iterdir())[draw.randrange(len(REQUESTS))]
    data = path.read_bytes() if draw.random() < 0.3 else other_text(REQUESTS[int(path.stem)].encode(), draw)
    with socket.create_connection(("127.0.0.1", viewer.port), timeout=HANG - 1) as line:
        answer = b""
        try:
            line.sendall(data[:60_000])
            line.shutdown(socket.SHUT_WR)
            while part := line.recv(1 << 16):
                answer += part
        except TimeoutError:
            raise
        except OSError:  # it has answered, and hung up, before it heard everything
            pass
    status = re.match(rb"HTTP/1\.[01] (\d+)", answer)
    good(b" 500 " not in answer[:20], f"{data[:200]!r}: {answer[-300:]!r}")
    good(SECRET.encode() not in answer and b"root:" not in answer, f"{data[:200]!r}: tells secrets")
    good(status is None or int(status[1]) < 500 or status[1] in (b"501", b"505"), f"{data[:200]!r}: {answer[:100]!r}")


# ---------------------------------------------------------------- what a user gives


def write_given(folder: Path) -> None:
    from room import room
    from room import write_run as written

    run = written(folder / "run", room(1, (48, 36)))
    shutil.copy(run.path / "camera.json", folder / "camera.json")
    shutil.rmtree(run.path)
    (folder / "masks").mkdir()
    for k in range(2):
        formats.write_mask(folder / "masks" / f"{k:03d}.png", np.eye(36, 48))
    (folder / "camera.spec").write_text("40,40,24,18")
    (folder / "lens.spec").write_text("0.1,0.01,0,0,0.001")
    (folder / "patterns.txt").write_text("# none of these\nwild/*\nkitti_0?\n")
    (folder / "split.txt").write_text("2011_09_26_drive_0001_sync: 0 3 6\n2011_09_26/2011_09_26_drive_0002_sync 6 l\n")


def read_given(folder: Path, draw: Random) -> None:
    from glvid.data.layouts import read_patterns
    from glvid.data.splits import read_frames
    from glvid.types import Clip

    size = draw.choice(((48, 36), (96, 72), (1, 1), (4000, 3000)))
    clip = Clip(folder / "clip.mp4", *size, fps=30.0, duration=1.0, frames=2)

    def spec(name: str) -> str:
        path = folder / name
        return typed(path) if path.is_file() else "fov=60"

    def camera(text: str) -> None:
        found = given.intrinsics(text, size)
        good(torch.isfinite(found.focal).all() and torch.isfinite(found.center).all() and (found.focal > 0).all(), text)
        lens = given.rectifier(spec("lens.spec") if draw.random() < 0.7 else None, found)
        if lens is not None:
            lens(np.zeros((size[1], size[0], 3), np.uint8))
            given.straightened(np.array([3.0, 4.0]), spec("lens.spec"), found)

    def masks() -> None:
        files = given.mask_files(folder / "masks", clip)
        given.checked_masks(files, size, "ignore")

    def fov() -> None:
        camera("fov=" + spec("camera.spec").split(",")[0])

    each_of(lambda: camera(str(folder / "camera.json")), lambda: camera(spec("camera.spec")), fov, masks)
    each_of(lambda: read_patterns([f"@{folder / 'patterns.txt'}"]), lambda: read_frames(folder / "split.txt"))


# ---------------------------------------------------------------- data sets


def write_layouts(folder: Path) -> None:
    """One small tree of every layout."""
    picture, grey = np.full((24, 32, 3), 90, np.uint8), np.full((24, 32), 900, np.uint16)
    flow = np.ones((2, 24, 32))
    matrix = "20 0 15.5 0 0 20 11.5 0 0 0 1 0"

    def put(name: str, data: bytes | str | np.ndarray) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, np.ndarray):
            data = cv2.imencode(path.suffix, data)[1].tobytes()
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    day, drive = "raw/2011_09_26", "raw/2011_09_26/2011_09_26_drive_0001_sync"
    put(f"{day}/calib_cam_to_cam.txt", f"R_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: {matrix}\n")
    put(f"{day}/calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n")
    put("odometry/sequences/00/calib.txt", f"P0: {matrix}\nP2: {matrix}\n")
    put("odometry/sequences/00/times.txt", "0\n0.1\n0.2\n")
    put("odometry/poses/00.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)
    put("tum/calibration.txt", "fx 20\nfy 20\ncx 15.5\ncy 11.5\ndepth_factor 5000\n")
    put("tum/rgb.txt", "# timestamp file\n0 rgb/0.png\n0.1 rgb/1.png\n0.2 rgb/2.png\n")
    put("tum/depth.txt", "0 depth/0.png\n0.1 depth/1.png\n0.2 depth/2.png\n")
    put("tum/groundtruth.txt", "0 0 0 0 0 0 0 1\n0.1 0 0 0 0 0 0 1\n0.2 1 0 0 0 0 0 1\n")
    scan = np.random.default_rng(0).uniform(1, 9, (50, 4)).astype(np.float32).tobytes()
    tag = np.array([formats.FLO_TAG], "<f4").tobytes()
    camera = tag + np.array([20, 0, 16, 0, 20, 12, 0, 0, 1, *np.eye(4)[:3].ravel()], "<f8").tobytes()
    for k in range(3):
        put(f"{drive}/image_02/data/{k:010d}.png", picture)
        put(f"{drive}/velodyne_points/data/{k:010d}.bin", scan)
        put(f"{drive}/proj_depth/groundtruth/image_02/{k:010d}.png", grey)
        put(f"odometry/sequences/00/image_2/{k:06d}.png", picture)
        put(f"tum/rgb/{k}.png", picture)
        put(f"tum/depth/{k}.png", grey)
        put(f"sintel/final/alley/frame_{k + 1:04d}.png", picture)
        put(f"sintel/camdata_left/alley/frame_{k + 1:04d}.cam", camera)
        put(f"sintel/depth/alley/frame_{k + 1:04d}.dpt", tag + np.array([32, 24], "<i4").tobytes() + bytes(4 * 32 * 24))
        put(f"film/{k}.jpg", picture)
    for k in range(2):
        put(f"kitti_flow/image_2/000000_1{k}.png", picture)
        put(f"chairs/00001_img{k + 1}.ppm", picture)
        put(f"middlebury/Tree/frame1{k}.png", picture)
    for name in (
        "kitti_flow/flow_occ/000000_10.png",
        "sintel/flow/alley/frame_0001.flo",
        "sintel/flow/alley/frame_0002.flo",
    ):
        formats.write_flow(folder / name, flow)
    formats.write_flow(folder / "chairs/00001_flow.flo", flow)
    formats.write_flow(folder / "middlebury/Tree/flow10.flo", flow)


def read_layouts(folder: Path, draw: Random) -> None:
    from glvid.data.layouts import survey
    from glvid.evaluate.truth import measured_depth, scanned_depth

    def tree(path: Path) -> None:
        found = survey([path])
        calls = []
        for recording in found.recordings:
            if recording.camera is not None:
                said = torch.cat([recording.camera.focal, recording.camera.center])
                good(torch.isfinite(said).all(), f"{path}: a camera that is not finite")
            if recording.times is not None:
                good(np.isfinite(recording.times).all(), f"{path}: times that are not finite")
            good(0 < recording.depth_unit < np.inf, f"{path}: a unit of {recording.depth_unit}")
            for n in range(min(3, len(recording.pictures))):
                calls += [lambda r=recording, n=n: measured_depth(r, n), lambda r=recording, n=n: scanned_depth(r, n)]
        calls += [lambda p=pair: formats.read_flow(p.flow) for pair in found.pairs]
        each_of(*calls)

    each_of(*(lambda p=path: tree(p) for path in sorted(folder.iterdir()) if path.is_dir()))


# ---------------------------------------------------------------- weights and checkpoints


class Bomb:
    """An object whose pickle runs code."""

    def __init__(self, call: Callable, *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def write_weights(folder: Path) -> None:
    from glvid.networks import FlowConfig, FlowNet

    net = FlowNet(FlowConfig(channels=(8, 8, 8, 8, 8), matched=8, hidden=8, blend=0))
    weights.save(net, folder / "flow.safetensors")
    state, info = weights._read(folder / "flow.safetensors")
    torch.save({"state": state, "info": info}, folder / "flow.pth")
    torch.save({"state": {"a": Bomb(os.system, "touch ../ran")}, "info": {}}, folder / "bomb.pth")
    torch.save(
        {"state": {"a": Bomb(exec, "open('../ran', 'w')")}}, folder / "old.pth", _use_new_zipfile_serialization=False
    )
    torch.save({"step": 3, "nets": {"a": torch.ones(3)}}, folder / "plain.pt")
    (folder / "models").mkdir()
    shutil.copy(folder / "flow.safetensors", folder / "models/flow-small.safetensors")
    weights.write_index(folder / "models")


def other_head(data: bytes, draw: Random) -> bytes:
    """A safetensors file with another head, of the length it says."""
    size = int.from_bytes(data[:8], "little")
    try:
        head = json.loads(data[8 : 8 + size])
        inner = json.loads(head["__metadata__"]["glvid"])
    except (ValueError, RecursionError, KeyError, TypeError):  # mutated already
        return data
    if draw.random() < 0.6:
        for _ in range(draw.choice((1, 1, 2))):
            inner = replaced(inner, draw)
        head["__metadata__"]["glvid"] = json.dumps(inner) if draw.random() < 0.9 else "[" * 100_000
    else:
        head = replaced(head, draw)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_weights(folder: Path, draw: Random) -> None:
    calls = []
    path = folder / "models/flow-small.safetensors"
    if draw.random() < 0.5 and path.is_file():
        (folder / "headed.safetensors").write_bytes(other_head(path.read_bytes(), draw))
        calls = [lambda: load("headed.safetensors")]

    def load(name: str) -> None:
        module, facts = weights.load(folder / name, "flow")
        good(all(torch.isfinite(p).all() for p in module.parameters()), "weights that are not finite")
        json.dumps(facts)

    def checkpoint(name: str) -> None:
        weights.load_checkpoint(folder / name)

    def listed() -> None:
        known = weights.index(folder / "models")
        for facts in known.values():
            _ = facts["file"], facts["sha256"], facts["kind"], facts["licence"], facts["config"]

    calls += [lambda n=n: checkpoint(n) for n in ("flow.pth", "plain.pt", "bomb.pth", "old.pth")]
    each_of(lambda: load("flow.safetensors"), listed, *calls)


def write_hub(folder: Path) -> None:
    import transformers

    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type="relative",
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder / "model")
    described = {"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "keep_aspect_ratio": True}
    described |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "model/preprocessor_config.json").write_text(json.dumps(described))
    (folder / "model/README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    whole = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (folder / "model/model.safetensors.index.json").write_text(json.dumps(whole))


def read_hub(folder: Path, draw: Random) -> None:
    from glvid.networks import hub

    net, facts = hub.load(str(folder / "model"))
    good(all(0 < side < 1 << 16 for side in net.images.size((48, 32))), f"pictures of {net.images.size((48, 32))}")
    json.dumps(facts)


# ---------------------------------------------------------------- claims and training

FOREIGN = ("mine.txt", "depth/mine.png", "depth/000000.txt", "other/000001.png")


def write_claimed(folder: Path) -> None:
    write_run(folder)
    run = folder / "run"
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "running"}, indent=1))
    journal = [f"{kind}/{k:06d}.{'jpg' if kind == 'image' else 'png'}" for kind in results.KINDS for k in range(3)]
    (run / results.JOURNAL).write_text("".join(line + "\n" for line in journal))
    (run / results.LOCK).write_text("2147483646 1\n")  # a process that is no more


def read_claimed(folder: Path, draw: Random) -> None:
    from room import IDENTITY

    run = folder / "run"
    there = []
    for name in draw.sample(FOREIGN, draw.randrange(3)):
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.write_text(SECRET)
            there.append(path)
    if draw.random() < 0.2 and (run / "flow").is_dir():  # a folder of ours that is a link to somebody else's
        shutil.rmtree(run / "flow")
        (run / "flow").symlink_to("../../beside")
    identity = json.loads(json.dumps(IDENTITY))
    if draw.random() < 0.5:
        identity["options"]["seed"] = 1
    try:
        claim.prepare(run, identity, resume=draw.random() < 0.5, overwrite=draw.random() < 0.7)
        claim.release(run)
    finally:
        good(all(path.read_text() == SECRET for path in there), "a file that glvid did not write was removed")


def write_work(folder: Path) -> None:
    work, size = begun(folder), (4, 6, 8)
    work.array("depth", size)[:] = 2.0
    work.rows(1, 3, 4).done("flow+1", 2)[:] = True
    work.once("camera-0", lambda: SOLUTION)
    work.keep("refined-0", lambda: {"weights": torch.arange(6.0), "rng": (1, "x", None)}, last=True)
    work.seal()


def read_work(folder: Path, draw: Random) -> None:
    """Whatever is left of them: what is read has the form that was asked for, and what is done again is right."""
    if draw.random() < 0.3:  # as after a restart of the machine
        path = folder / "work/manifest.json"
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            if path.is_file() and not path.is_symlink():
                path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another"}))
    work = begun(folder)
    rows = work.rows(1, 3, 4)
    good(work.array("depth", (4, 6, 8)).shape == (4, 6, 8), "an array of another shape")
    done = rows.done("flow+1", 2)
    good(done.shape == (2,) and done.dtype == bool, "marks of another shape")
    same = work.once("camera-0", lambda: SOLUTION)
    good(torch.equal(same.world_T_cam, SOLUTION.world_T_cam), "another solution than was kept")
    work.kept("refined-0")
    work.seal()
    work.remove()


def begun(folder: Path) -> Any:
    from glvid.inference.work import Work

    return Work(folder / "work", {"run": {"seed": 0}})


CAMERA = types.Intrinsics(torch.tensor([90.0, 91.0]), torch.tensor([48.0, 32.0]), (96, 64))
SOLUTION = types.Solution(
    CAMERA, None, True, "solved", torch.eye(4).double().repeat(4, 1, 1), torch.ones(4).double(), 2.5, 0.1
)


def write_training(folder: Path) -> None:
    from glvid.train import Options, state
    from glvid.train.options import as_toml

    options = trained(folder)
    (folder / "options.toml").write_text(as_toml(Options(steps=5, size=(64, 64), exclude=("a", "b"))))
    (folder / "log.jsonl").write_text(
        "".join(json.dumps({"stage": "flow", "step": k, "loss": 0.5}) + "\n" for k in range(6))
    )
    made = small_state(options)
    made.step = 3
    state.save(made, options, {"epe": 1.0}, better=True)
    cache_ = folder / "cache"
    cache_.mkdir()
    record = {"path": "a.mp4", "group": "a", "fps": 10.0, "shape": [64, 48], "size": [32, 24], "shot": [0, 0, 0]}
    record |= {"index": [0, 1, 2], "focal": [20.0, 20.0], "center": [16.0, 12.0]}
    (cache_ / "a.json").write_text(json.dumps(record))
    (cache_ / "a.rgb").write_bytes(bytes(3 * 24 * 32 * 3))
    (cache_ / "split.json").write_text(json.dumps({"a-0": 0.5}))


def trained(folder: Path) -> Any:
    from glvid.train import Options

    return Options(stage="flow", out=folder, size=(64, 64), steps=5, device="cpu", init="none")


def small_state(options: Any) -> Any:
    from torch import nn

    from glvid.networks import FlowConfig, FlowNet
    from glvid.train.state import State

    def net() -> nn.ModuleDict:
        return nn.ModuleDict({"flow": FlowNet(FlowConfig(channels=(8, 8, 8, 8, 8), matched=8, hidden=8, blend=0))})

    nets = net()
    optimiser = torch.optim.AdamW([{"params": list(nets.parameters()), "rate": 1e-3}], 1e-3)
    for p in nets.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    return State(options.stage, nets, net(), optimiser)


def read_training(folder: Path, draw: Random) -> None:
    from glvid.data import frames
    from glvid.train import Options, configured, state

    options = replace(trained(folder), resume=True)

    def log() -> None:
        with state.open_log(folder / "log.jsonl", "flow", 3) as write:
            write({"stage": "flow", "step": 3})

    def restored() -> None:
        made = small_state(options)
        state.restore(made, options)
        good(isinstance(made.step, int) and made.step >= 0, f"step {made.step!r}")
        made.optimiser.step()

    def footage() -> None:
        clip = frames.opened(folder / "cache/a.json")
        frames.split([clip], folder / "cache/split.json")
        np.asarray(clip.images[:1])

    each_of(lambda: configured(folder / "options.toml", Options()), log, restored, footage)
    state.last_metrics(options, "flow")


# ---------------------------------------------------------------- pictures and films


def write_pictures(folder: Path) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8), (0, 0), 2)
    for suffix in ("jpg", "png", "webp", "bmp", "tiff", "ppm"):
        (folder / suffix).mkdir()
        for k in range(2):
            (folder / suffix / f"{k}.{suffix}").write_bytes(cv2.imencode(f".{suffix}", picture)[1].tobytes())
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    jpeg = (folder / "jpg/0.jpg").read_bytes()
    for k in range(2):
        turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
        (folder / "jpg" / f"{k}.jpg").write_bytes(turned)


def read_pictures(folder: Path, draw: Random) -> None:
    from glvid.video.pictures import picture_size

    def whole(path: Path) -> None:
        for file in path.iterdir():
            picture_size(file)
        watch_film(path)

    each_of(*(lambda p=path: whole(p) for path in sorted(folder.iterdir()) if path.name != "ppm"))


def watch_film(path: Path, most: int = 300) -> None:
    """What `infer` and `probe` look at first."""
    from glvid.cli.commands import probe_one
    from glvid.types import Frame

    facts = probe_one(path, {}, json_=True)
    json.dumps(facts, allow_nan=False)
    clip, last, count = video.probe(path), -np.inf, 0
    good(
        clip.width > 0 and clip.height > 0 and 0 < clip.fps < np.inf,
        f"a clip of {clip.width}x{clip.height}, {clip.fps}",
    )
    good(0 <= clip.duration < np.inf, f"a duration of {clip.duration}")
    good(clip.frames is None or clip.frames >= 0, f"{clip.frames} frames")
    size = video.stored_size((clip.width, clip.height), 640)
    for event in video.frames(clip, max_size=640):
        if isinstance(event, Frame):
            good(event.time > last and np.isfinite(event.time), f"times {last} and {event.time}")
            good(event.image.shape == (3, size[1], size[0]), f"frames of {tuple(event.image.shape)}")
            last, count = event.time, count + 1
            if count >= most:
                break
        elif isinstance(event, video.Lost):
            good(0 <= event.first <= event.last, f"{event}")


FILMS = (
    ("mp4", "libx264", "yuv420p"), ("mkv", "libx264", "yuv420p"), ("ts", "libx264", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"), ("webm", "libvpx", "yuv420p"), ("gif", "gif", "rgb8"), ("flv", "flv1", "yuv420p"),
    ("mov", "prores_ks", "yuva444p10le"), ("mpg", "mpeg2video", "yuv420p"), ("mkv", "ffv1", "yuv420p"),
    ("mov", "mjpeg", "yuvj420p"), ("mp4", "libx265", "yuv420p"),
)  # fmt: skip


def write_films(folder: Path) -> None:
    from test_video import film, pan

    av.logging.set_level(None)
    for suffix, codec, pixels in FILMS:
        how = {"options": {"deadline": "realtime", "cpu-used": "8"}} if "vpx" in codec else {}
        how |= {"rotate": (90,)} if suffix == "mp4" else {}
        film(folder / f"{codec}.{suffix}", pan(8, (64, 48)), codec, pixels, **how)


@dataclass(frozen=True)
class Films(Target):
    """One film a case."""

    def case(self, seeds: Path, folder: Path, draw: Random) -> None:
        """Makes a case."""
        folder.mkdir()
        source = draw.choice(sorted(seeds.iterdir()))
        suffix = source.suffix if draw.random() < 0.9 else draw.choice((".mp4", ".mkv", ".jpg", ".png", ".gif", ".txt"))
        (folder / f"clip{suffix}").write_bytes(mutated(source.read_bytes(), source.suffix, draw))


def read_film(folder: Path, draw: Random) -> None:
    watch_film(next(iter(folder.iterdir())))


RUN = r"run/(run\.json|camera\.json|frames\.csv|trajectory\.txt|preview\.mp4|depth/|flow/|mask/|image/)"
TARGETS = {
    "maps": Target(write_maps, read_maps, strange=0.03),
    "run": Target(write_run, read_run, RUN, strange=0.06),
    "metric": Target(write_metric, any_metric, r"(run/.*\.(json|csv|txt)|/tum\.txt|/kitti\.txt|spec)$", named=False),
    "page": Target(write_run, read_page, RUN, strange=0.03),
    "exports": Target(write_run, read_exports, RUN, strange=0.03),
    "exported": Target(write_exported, read_exported, r"out/.*(json|txt)$", strange=0.1),
    "viewed": Target(write_run, read_viewed, RUN, strange=0.03),
    "requests": Target(write_requests, read_requests, named=False),
    "given": Target(write_given, read_given, strange=0.03, named=False),
    "layouts": Target(write_layouts, read_layouts, r"\.(txt|flo|cam|dpt|bin)$|_occ/|0+0\.(png|jpg)$", strange=0.03),
    "weights": Target(write_weights, read_weights, strange=0.02),
    "hub": Target(write_hub, read_hub, strange=0.03),
    "claimed": Target(write_claimed, read_claimed, r"run\.json|\.glvid|csv", strange=0.15),
    "work": Target(write_work, read_work, strange=0.1),
    "training": Target(write_training, read_training, strange=0.02),
    "pictures": Target(write_pictures, read_pictures, strange=0.02),
    "films": Films(write_films, read_film),
}


# ---------------------------------------------------------------- the child

TOUCHED: list[str] = []  # what the case touched that it must not
CASE: list[Path] = []  # the folder of the case, while one runs
CALLS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def watch(event: str, arguments: tuple) -> None:
    """An audit hook: notes whatever leads out of the case's folder."""
    case = next(iter(CASE), None)  # once: threads of the viewer come here while a case ends
    if case is None:
        return
    if event in CALLS:
        TOUCHED.append(f"{event} {arguments[:1]!r}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        writes = str(arguments[1] or "r")[0] in "wax+" or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        # a file of a fixed name may be a link, and is read through it, but never written; x follows none (O_EXCL)
        followed = writes and "x" not in str(arguments[1])
        path = (os.path.realpath if followed else os.path.abspath)(os.fsdecode(arguments[0]))
        cage = str(case.parent)
        inside = path.startswith((str(case), f"{cage}/tmp/", "/dev/null", "/dev/urandom"))
        if path.startswith(cage) and not inside or path == "/etc/passwd" or writes and not inside:
            TOUCHED.append(f"open {path}{' to write' if writes else ''}")
    elif event in WRITES:
        path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
        if not isinstance(path, (str, bytes)) or event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return  # by number, as shutil's removal of a folder of this file does
        path = os.fsdecode(path)
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not path.startswith((str(case), f"{case.parent}/tmp/")):
            TOUCHED.append(f"{event} {path}")


def beside(cage: Path) -> dict[str, bytes]:
    """All that lies beside the case."""
    outside = [path for path in cage.iterdir() if path.name not in ("case", "seeds", "tmp", "stderr")]
    files = [p for path in outside for p in ([path] if not path.is_dir() else path.rglob("*"))]
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in files}


def child(name: str, seed: int, cage: Path, line: Any) -> None:
    """Makes or runs the cases whose numbers come over the line, and answers how each ended."""
    sys.addaudithook(watch)
    os.chdir(cage)
    tempfile.tempdir = str(cage / "tmp")
    av.logging.set_level(None)
    torch.set_num_threads(1)
    target, seeds, case = TARGETS[name], cage / "seeds", cage / "case"
    with open(os.devnull, "w") as nowhere, open(cage / "stderr", "w") as told:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(told.fileno(), 2)
    if not seeds.exists():
        (cage / "making").mkdir()
        target.make(cage / "making")
        os.rename(cage / "making", seeds)
    if name == "requests":
        served()
    before = beside(cage)
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(seeds, case, symlinks=True)
    outcome(target, case, Random(0))  # once unmutated: what is loaded late is loaded then
    resource.setrlimit(resource.RLIMIT_AS, (addresses() + ROOM,) * 2)
    line.send(None)
    while (asked := line.recv()) is not None:
        number, run = asked
        os.chdir(cage)
        shutil.rmtree(case, ignore_errors=True)
        draw = Random(f"{name} {seed} {number}")
        target.case(seeds, case, draw)
        os.chdir(case)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = outcome(target, case, draw) if run else None
        taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if TOUCHED:
            found = (f"touches {TOUCHED[0].split()[0]}", "\n".join(TOUCHED))
        elif found is None and taken > MEMORY:
            found = ("memory", f"{taken / 1e6:.0f} MB")
        elif found is None and (after := beside(cage)) != before:
            changed = sorted({k for k in before.keys() | after.keys() if before.get(k) != after.get(k)})
            found, before = ("changes what lies beside", "\n".join(changed)), after
        TOUCHED.clear()
        line.send(found)


def addresses() -> int:
    return int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def outcome(target: Target, case: Path, draw: Random) -> tuple[str, str] | None:
    """What is wrong with how a case ends: a name by which to tell findings apart, and a description; None: nothing."""
    CASE.append(case)
    try:
        target.run(case, draw)
    except GlvidError as error:
        said = in_a_line(str(error))
        if not said or target.named and str(case) not in said:
            return f"message {type(error).__name__} {place(error)}", f"{len(said)} characters: {said[:2000]}"
    except BaseException as error:  # noqa: BLE001 (that is what is looked for)
        CASE.clear()
        return f"{type(error).__name__} {place(error)}", "".join(traceback.format_exception(error))[-6000:]
    finally:
        CASE.clear()
    return None


def place(error: BaseException) -> str:
    """The last line of glvid that an exception went through; of the fuzzer, if it went through none."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/glvid/" in f.filename and "/tests/" not in f.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}"


# ---------------------------------------------------------------- the parent


class Worker:
    """A child process that runs the cases of one target."""

    def __init__(self, name: str, seed: int, cage: Path):
        self.arguments = name, seed, cage
        self.line, self.process = None, None

    def started(self) -> None:
        if self.process is not None and self.process.is_alive():
            return
        context = multiprocessing.get_context("fork")
        self.line, there = context.Pipe()
        self.process = context.Process(target=child, args=(*self.arguments, there), daemon=True)
        self.process.start()
        there.close()
        if not self.line.poll(120):
            raise RuntimeError(f"{self.arguments[0]}: the good files cannot be made in 120 s")
        self.line.recv()

    def asked(self, number: int, run: bool, seconds: float) -> tuple[str, str] | None:
        """How case `number` ends."""
        self.started()
        self.line.send((number, run))
        try:
            if self.line.poll(seconds):
                return self.line.recv()
        except EOFError:
            self.process.join()
            said = (self.arguments[2] / "stderr").read_text(errors="replace")[-3000:]
            return f"dies {self.process.exitcode}", f"the process ended with {self.process.exitcode}: {said}"
        self.end()
        return "hangs", f"more than {seconds:g} s"

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


def fuzzed(name: str, seconds: float, runs: int | None, seed: int, out: Path | None) -> tuple[int, list[str]]:
    """Cases run, and a line for every distinct finding."""
    found: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        cage = Path(folder).resolve()
        (cage / "secret.txt").write_text(SECRET)
        (cage / "tmp").mkdir()
        (cage / "beside").mkdir()
        (cage / "beside/keep.png").write_text(SECRET)
        (cage / "beside/000000.png").write_text(SECRET)
        worker, number, ends = Worker(name, seed, cage), 0, None
        try:
            worker.started()
            ends = time.monotonic() + seconds
            while number < runs if runs is not None else time.monotonic() < ends:
                finding = worker.asked(number, True, HANG)
                if finding is not None and finding[0] == "hangs":
                    finding = worker.asked(number, True, AGAIN)
                if finding is not None:
                    numbers = found.setdefault(finding[0], [])
                    if not numbers and out is not None:
                        saved(worker, number, finding, cage, out / f"{name}-{len(found)}")
                    numbers.append(number)
                number += 1
        finally:
            worker.end()
    return number, [f"{name}: {what}: {len(numbers)} times, first case {numbers[0]}" for what, numbers in found.items()]


def saved(worker: Worker, number: int, finding: tuple[str, str], cage: Path, target: Path) -> None:
    """The case as it was before it ran, and how it ended."""
    worker.end()
    worker.asked(number, False, AGAIN)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    seeds = cage / "seeds"
    odd = [f"{p} -> {os.readlink(p) if p.is_symlink() else 'pipe'}" for p in (cage / "case").rglob("*")
           if p.is_symlink() or p.is_fifo()]  # fmt: skip
    (target / "how.txt").write_text("\n".join([*finding, *odd]), errors="replace")
    for path in sorted((cage / "case").rglob("*")):  # what differs is enough
        name, same = path.relative_to(cage / "case"), False
        if path.is_file() and (seeds / name).is_file():
            same = path.read_bytes() == (seeds / name).read_bytes()
        if path.is_file() and not same and not path.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help=f"all, or some of {','.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--runs", type=int, help="cases of every target, in place of seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for findings")
    told = parser.parse_args(arguments)
    names = list(TARGETS) if told.target == "all" else told.target.split(",")
    lines = []
    for name in names:
        count, found = fuzzed(name, told.seconds / len(names), told.runs, told.seed, told.out)
        sys.stdout.write("\n".join([f"{name}: {count} cases, {len(found)} findings", *found, ""]))
        sys.stdout.flush()
        lines += found
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
