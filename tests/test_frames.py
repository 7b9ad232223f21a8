"""Footage for training: decoded once, still stretches left out, windows within shots, both sides of a split apart."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from glvid.data import frames as F
from glvid.types import Intrinsics, Recording

SIZE = (96, 64)


def panorama(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (16, 120, 3)).astype(np.uint8), (480, 64), interpolation=cv2.INTER_CUBIC)


def film(folder: Path, offsets: list[tuple[int, int]]) -> Recording:
    """Pictures cut out of panoramas, by (panorama, offset)."""
    folder.mkdir(parents=True)
    for n, (seed, x) in enumerate(offsets):
        (folder / f"{n:03d}.png").write_bytes(cv2.imencode(".png", panorama(seed)[:, x : x + 96])[1].tobytes())
    camera = Intrinsics(torch.tensor([80.0, 82.0]), torch.tensor([40.0, 33.0]), SIZE)
    return Recording("frames", folder.name, folder, tuple(sorted(folder.iterdir())), camera)


def half(size):
    return size[0] // 2, size[1] // 2


def test_a_recording_is_decoded_once_and_its_still_frames_are_left_out(tmp_path, monkeypatch):
    moving = [(0, 4 * k) for k in range(8)]
    recording = film(tmp_path / "walk", moving + [(0, 28)] * 10 + [(1, 4 * k) for k in range(6)])
    clip = F.stored(recording, tmp_path / "cache", half)
    assert clip.images.shape == (14, 32, 48, 3) and clip.shape == SIZE and clip.fps == 10
    assert clip.shot.tolist() == [0] * 8 + [1] * 6
    assert torch.equal(clip.camera.focal, torch.tensor([40.0, 41.0])) and clip.camera.size == (48, 32)
    wanted = cv2.resize(panorama(0)[:, 28:124], (48, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(clip.images[7].astype(int) - wanted[..., ::-1]).max() <= 2
    monkeypatch.setattr(F, "_decode", None)
    again = F.stored(recording, tmp_path / "cache", half)
    assert np.array_equal(again.images, clip.images) and (tmp_path / "cache").glob("*.part").__next__ is not None


def test_an_interrupted_recording_is_decoded_anew(tmp_path, monkeypatch):
    recording = film(tmp_path / "walk", [(0, 4 * k) for k in range(6)])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(F.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        F.stored(recording, tmp_path / "cache", half)
    assert not list((tmp_path / "cache").glob("*.json"))
    assert len(F.stored(recording, tmp_path / "cache", half).images) == 6


def test_a_resting_camera_leaves_one_frame(tmp_path):
    clip = F.stored(film(tmp_path / "tripod", [(0, 5)] * 9), tmp_path / "cache", half)
    assert len(clip.images) == 1 and F.starts(clip, 1).size == 0


def test_expected_bytes_are_an_upper_bound(tmp_path):
    recording = film(tmp_path / "walk", [(0, 4 * k) for k in range(8)])
    F.stored(recording, tmp_path / "cache", half)
    stored = next((tmp_path / "cache").glob("*.rgb")).stat().st_size
    assert stored == F.expected_bytes([(8, 10.0, SIZE)], half) == 8 * 48 * 32 * 3
    assert F.expected_bytes([(100, 30.0, SIZE)], half) == 50 * 48 * 32 * 3


def clip_of(shot: list[int], name: str = "a") -> F.Footage:
    images = np.broadcast_to(np.arange(len(shot), dtype=np.uint8)[:, None, None, None], (len(shot), 32, 48, 3))
    return F.Footage(Path(f"/films/{name}"), images, SIZE, 10.0, np.array(shot, np.int64))


def test_windows_stay_within_shots():
    clip = clip_of([0] * 5 + [1] * 4 + [F.LEFT_OUT] * 3)
    assert F.starts(clip, 1).tolist() == [0, 1, 2, 5, 6] and F.starts(clip, 2).tolist() == [0]
    drawn = F.windows([clip], [np.random.default_rng(k) for k in range(64)], np.random.default_rng(0))
    assert drawn.images.shape == (64, 3, 32, 48, 3) and set(drawn.clips) == {0} and set(drawn.mirrored) == {True, False}


def test_cameras_turn_over_with_their_pictures():
    camera = Intrinsics(torch.tensor([40.0, 41.0]), torch.tensor([20.0, 15.0]), (48, 32))
    rngs = [np.random.default_rng(k) for k in range(16)]
    drawn = F.windows([replace(clip_of([0] * 9), camera=camera)], rngs, np.random.default_rng(1))
    for lens, turned in zip(drawn.cameras, drawn.mirrored, strict=True):
        assert torch.equal(lens.center, torch.tensor([28.0 if turned else 20.0, 15.0]))
    twice = F.mirrored(F.mirrored(camera))
    assert torch.equal(twice.center, camera.center) and torch.equal(twice.focal, camera.focal)


@pytest.mark.parametrize("count", [2, 5, 23])
def test_a_split_is_kept_and_its_sides_share_nothing(tmp_path, count):
    clips = [clip_of([0] * 40, str(k)) for k in range(count)]
    learn, check = F.split(clips, tmp_path / "split.json")
    used = [{(c.name, n) for c in side for n in np.flatnonzero(c.shot != F.LEFT_OUT)} for side in (learn, check)]
    assert used[0] and used[1] and not used[0] & used[1] and len(used[0] | used[1]) == 40 * count
    more = F.split([*reversed(clips), clip_of([0] * 40, "new")], tmp_path / "split.json")
    after = [{(c.name, n) for c in side for n in np.flatnonzero(c.shot != F.LEFT_OUT)} for side in more]
    assert used[0] <= after[0] and used[1] <= after[1]
    assert len(list(F.in_order(check, every=3))) <= 3 * len(check) and list(F.in_order(check)) == list(
        F.in_order(check)
    )


def test_only_what_is_near_listed_frames_is_used():
    clip = replace(clip_of([0] * 30), index=np.arange(30) * 2)
    near = F.limited(clip, {20, 22})
    assert [int(clip.index[k]) for k in np.flatnonzero(near.shot != F.LEFT_OUT)] == [16, 18, 20, 22, 24, 26]
    assert F.limited(clip, None) is clip and not F.starts(F.limited(clip, set()), 1).size
