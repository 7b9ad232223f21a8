"""Formats: what is written is what is read, as the reference readers see it; nothing half-written stays."""

import builtins
import errno
import io
import os

import cv2
import numpy as np
import pytest
import torch

from glvid import files, formats
from glvid.errors import InputError, OutputError
from glvid.geometry import se3_exp
from glvid.types import Trajectory

RNG = np.random.default_rng(0)


def test_depth_round_trip_to_half_a_step(tmp_path):
    depth = RNG.uniform(0.5, 50, (30, 40)).astype(np.float32)
    scale = formats.depth_scale(depth)
    formats.write_depth(tmp_path / "d.png", depth, scale)
    assert np.abs(formats.read_depth(tmp_path / "d.png", scale) - depth).max() <= scale * 0.501


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 70), (1, 4, 3), (33, 29, 3)])
def test_others_read_our_pngs(kind, shape):
    rng = np.random.default_rng(0)
    for array in (rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True), np.zeros(shape, kind)):
        read = cv2.imdecode(np.frombuffer(formats.png_of(array), np.uint8), cv2.IMREAD_UNCHANGED)
        assert read.dtype == kind and np.array_equal(read if array.ndim == 2 else read[..., ::-1], array)
    strided = np.arange(240, dtype=kind).reshape(12, 20)[::2, ::-1]
    assert formats.png_of(strided) == formats.png_of(strided.copy())


def test_depth_png_keeps_what_is_said_and_only_that(tmp_path):
    depth = np.float64([[1e-9, 1e9, np.inf], [np.nan, -np.inf, 0.0]])
    formats.write_depth(tmp_path / "d.png", depth, 0.01)
    raw = cv2.imread(str(tmp_path / "d.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert raw.tolist() == [[1, 65535, 65535], [0, 0, 0]]
    assert np.isnan(formats.read_depth(tmp_path / "d.png", 0.01)[1]).all()


@pytest.mark.parametrize("far", [20, 300, 3000])
def test_depth_scale_resolves_near_and_holds_far(far):
    sample = np.geomspace(1, far, 100_000)
    scale = formats.depth_scale(sample)
    near = np.percentile(sample, 1)
    assert 0.5 * scale / near < 0.005
    assert 65535 * scale >= min(1.19 * np.percentile(sample, 99.9), 654 * near)


def test_depth_scale_does_not_clamp_the_scene_for_a_speck_of_dust():
    sample = np.concatenate([np.full(2, 0.001), np.full(98, 10.0)])
    assert 65535 * formats.depth_scale(sample) == pytest.approx(12)


def test_depth_scale_needs_depth():
    with pytest.raises(ValueError, match="no finite positive"):
        formats.depth_scale(np.float32([np.nan, -1, 0, np.inf]))


def test_flow_png_is_kittis(tmp_path):
    flow = RNG.uniform(-500, 500, (2, 20, 30)).astype(np.float32)
    flow[:, 0, :5] = [[512, -512, 512.1, np.nan, 3], [0, 0, 0, 0, np.inf]]
    formats.write_flow(tmp_path / "f.png", flow)
    head = (tmp_path / "f.png").read_bytes()
    assert (head[24], head[25]) == (16, 2)  # PNG: bit depth 16, colour type RGB
    bgr = cv2.imread(str(tmp_path / "f.png"), cv2.IMREAD_UNCHANGED)
    assert bgr[0, :5, 0].tolist() == [1, 1, 0, 0, 0]
    assert np.array_equal(bgr[1:, :, 2], np.rint(flow[0, 1:] * 64 + 32768))  # red is u
    assert np.array_equal(bgr[1:, :, 1], np.rint(flow[1, 1:] * 64 + 32768))
    back = formats.read_flow(tmp_path / "f.png")
    assert np.abs(back - flow)[:, 1:].max() <= 1 / 128 + 4e-5  # and float32 at 500 px
    assert np.isnan(back[:, 0, 2:5]).all()
    assert back[0, 0, :2].tolist() == [511.984375, -512]


def test_flo_is_middleburys(tmp_path):
    flow = RNG.uniform(-700, 700, (2, 7, 5)).astype(np.float32)
    formats.write_flow(tmp_path / "f.flo", flow)
    assert cv2.writeOpticalFlow(str(tmp_path / "cv.flo"), np.ascontiguousarray(flow.transpose(1, 2, 0)))
    assert (tmp_path / "f.flo").read_bytes() == (tmp_path / "cv.flo").read_bytes()
    assert np.array_equal(formats.read_flow(tmp_path / "f.flo"), flow)
    flow[0, 2, 3] = np.nan
    formats.write_flow(tmp_path / "f.flo", flow)
    assert np.isnan(formats.read_flow(tmp_path / "f.flo")[:, 2, 3]).all()
    assert np.isnan(formats.read_flow(tmp_path / "f.flo")).sum() == 2


def test_mask_round_trip(tmp_path):
    moving = np.float32([[0, 1, 0.5], [0.25, np.nan, 2]])
    formats.write_mask(tmp_path / "m.png", moving)
    back = formats.read_mask(tmp_path / "m.png")
    assert np.abs(back - [[0, 1, 0.5], [0.25, 1, 1]]).max() <= 1 / 510 + 1e-7
    assert cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint8


def test_image_round_trip_keeps_colours_in_order(tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 200, 120, 20
    formats.write_image(tmp_path / "i.jpg", image)
    assert np.abs(formats.read_image(tmp_path / "i.jpg").astype(int) - image).max() <= 3


def path_of(count: int) -> Trajectory:
    """Turns more than once round, so that quaternions must pass the sign change."""
    twist = np.array([[0.1, 0, 0.02, 0.02, 0.25, 0.01]]) * np.arange(count)[:, None]
    return Trajectory(np.arange(count) / 29.97, se3_exp(torch.from_numpy(twist)).numpy(), "m")


def test_trajectory_round_trip(tmp_path):
    path = path_of(60)
    formats.write_trajectory(tmp_path / "t.txt", path)
    back = formats.read_trajectory(tmp_path / "t.txt", "m")
    assert np.abs(back.times - path.times).max() < 1e-9
    assert np.abs(back.world_T_cam - path.world_T_cam).max() < 1e-10
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert lines[0] == "0.000000000 0 0 0 0 0 0 1"
    q = np.array([line.split(" ")[4:] for line in lines], float)
    assert ((q[1:] * q[:-1]).sum(1) > 0.9).all()
    assert q[:, 3].min() < -0.5  # it did pass the sign change


def test_trajectory_refuses_what_is_not_finite(tmp_path):
    path = path_of(3)
    path.world_T_cam[1, 0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        formats.write_trajectory(tmp_path / "t.txt", path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.png", b""),
        ("d.png", b"no picture"),
        ("f.flo", b"PIEH"),
        ("f.flo", b"PIEH\x08\0\0\0\x08\0\0\0short"),
        ("t.txt", b"0 1 2 3"),
        ("t.txt", b"0 0 0 0 0 0 0 0"),
        ("t.txt", b"a b c d e f g h"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, data):
    readers = {
        "d.png": lambda p: formats.read_depth(p, 1.0),
        "f.flo": formats.read_flow,
        "t.txt": formats.read_trajectory,
    }
    with pytest.raises(InputError, match=f"{name}: is missing"):
        readers[name](tmp_path / name)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: is damaged"):
        readers[name](tmp_path / name)


def test_a_picture_of_the_wrong_kind_is_damaged(tmp_path):
    formats.write_mask(tmp_path / "m.png", np.zeros((4, 4)))
    with pytest.raises(InputError, match="not a 16-bit grey PNG"):
        formats.read_depth(tmp_path / "m.png", 1.0)


class FullDisk(io.FileIO):
    """Takes 100 bytes, then is full."""

    def write(self, data):
        super().write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("old", [None, b"old"])
def test_full_disk_leaves_no_half_file(tmp_path, monkeypatch, old):
    path = tmp_path / "a" / "d.bin"
    if old:
        path.parent.mkdir()
        path.write_bytes(old)
    monkeypatch.setattr(builtins, "open", lambda file, mode="r", **_: FullDisk(file, mode.replace("b", "")))
    with pytest.raises(
        OutputError,
        match=r"d\.bin: cannot be written: No space left on device; needs about 1 kB, .* are free; free some space",
    ):
        files.atomic_write(path, bytes(1000))
    monkeypatch.undo()
    assert [p.name for p in path.parent.iterdir()] == (["d.bin"] if old else [])
    assert not old or path.read_bytes() == old


def test_a_disk_that_truncates_silently_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "open", lambda file, mode="r", **_: io.BytesIO() if not os.mknod(file) else None)
    with pytest.raises(OutputError, match="shorter than what was written"):
        files.atomic_write(tmp_path / "d.bin", bytes(10))
    assert not list(tmp_path.iterdir())


def test_write_into_a_file_as_if_it_were_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="choose another place"):
        files.atomic_write(tmp_path / "file" / "d.bin", b"")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_an_interrupt_leaves_no_half_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.published(tmp_path / "x.mp4") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
