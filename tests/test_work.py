"""What is kept while a run goes on, and runs that were stopped, killed or starved, gone on with to the same bytes."""

import hashlib
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import prints
from memory import resident
from test_full_disk import limited
from test_video import film, pan

from glvid import claim, inference, predict, refine, results, video, weights
from glvid.cli import ends
from glvid.errors import MemoryExhausted, OutputError, UsageError
from glvid.inference import decode, job, work
from glvid.inference.work import Work
from glvid.networks import DepthConfig, DepthNet
from glvid.solve import long, shot
from glvid.store import digest, fill, packed, unpacked
from glvid.types import Frame, Intrinsics, Solution

OPTIONS = inference.InferOptions(
    refine="output", steps=1, max_points=2000, max_size=96, intrinsics="fov=60", fix_intrinsics=True
)


class Killed(BaseException):
    """As SIGKILL, but for what the system would forget."""


# ---------------------------------------------------------------- values and arrays


def test_values_come_back_as_they_were():
    camera = Intrinsics(torch.tensor([90.0, 91.0]), torch.tensor([48.0, 32.0], dtype=torch.float64), (96, 64))
    solution = Solution(
        camera, None, True, "solved", torch.eye(4).double().repeat(3, 1, 1), torch.ones(3).double(), 2.5, float("inf")
    )
    value = {"a": (solution, [1, None, "ü", True]), "b": torch.tensor(7), "c": np.arange(6, dtype=np.int16)[::2]}
    found = unpacked(packed(value))
    again = found["a"][0]
    assert again.world_T_cam.dtype == torch.float64 and torch.equal(again.world_T_cam, solution.world_T_cam)
    assert (again.focal_sigma, again.cost, again.offsets) == (None, float("inf"), (1, 2, 4, 8))
    assert again.intrinsics.size == (96, 64) and torch.equal(again.intrinsics.center, camera.center)
    assert found["a"][1] == [1, None, "ü", True] and found["b"].shape == () and found["b"] == 7
    assert found["c"].dtype == np.int16 and found["c"].tolist() == [0, 2, 4]


def test_a_digest_tells_values_apart_and_is_the_same_for_equal_ones():
    values = [(1, 2.0), (1, 2.5), (torch.zeros(3),), (torch.zeros(3).double(),), ("a", None), ("a", (None,))]
    assert len({digest(*v) for v in values}) == len(values)
    assert digest(torch.arange(3.0), (1, "x")) == digest(torch.arange(3.0), (1, "x"))


def resealed(body: bytes) -> bytes:
    """As somebody would who wants it to be believed."""
    return hashlib.sha256(body).digest() + body


def body(text: str, rest: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + rest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        packed((1, 2))[:-1],
        packed([1])[:40],
        resealed(b""),
        resealed(body("[" * 100_000)),
        resealed(body("{}")),
        resealed(body('{"value": {"tensor": 0}, "arrays": []}')),
        resealed(body('{"value": {"array": 0}, "arrays": [["<f4", [1000000000000]]]}')),
        resealed(body('{"value": {"array": 0}, "arrays": [["<f4", [-1]]]}', bytes(8))),
        resealed(body('{"value": {"array": 0}, "arrays": [["|O", [1]]]}', bytes(8))),
        resealed(body('{"value": {"Popen": {}}, "arrays": []}')),
        resealed(body('{"value": {"Solution": {"x": 1}}, "arrays": []}')),
        resealed(body('{"value": {}, "arrays": []}')),
    ],
    ids=range(13),
)
def test_damaged_values_are_refused(data):
    with pytest.raises(ValueError):
        unpacked(data)


def test_no_byte_may_change():
    data = packed({"a": torch.arange(5.0), "b": (1, "x")})
    for n in range(len(data)):
        with pytest.raises(ValueError):
            unpacked(data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :])


def test_only_rows_that_are_not_done_are_worked_on():
    done, seen, out, told = np.array([True, False, True, False, False]), [], np.zeros(5), []

    def double(n):
        seen.append(n)
        return 2 * n

    fill(done, [0, 1, 2, 3], double, out.__setitem__, told.append)
    assert sorted(seen) == [1, 3] and out.tolist() == [0, 2, 0, 6, 0]
    assert done.tolist() == [True, True, True, True, False] and sum(told) == 4


def opened(folder, key="k"):
    return Work(folder / "work", {"run": key})


def test_what_was_found_outlives_the_process(tmp_path):
    first, calls = opened(tmp_path), []
    assert not first.continues
    first.array("a", (3, 2), np.int16)[1] = 7
    first.rows(2, 5, 6).done("flow+1", 3)[1] = True
    assert first.once("value", lambda: calls.append(1) or (1, "x")) == (1, "x")
    second = opened(tmp_path)
    assert second.continues and second.array("a", (3, 2), np.int16).tolist() == [[0, 0], [7, 7], [0, 0]]
    assert second.done("flow+1", 6).tolist() == [False, False, False, True, False, False]
    assert second.once("value", lambda: calls.append(2)) == (1, "x") and calls == [1]


def test_files_of_another_key_are_not_used(tmp_path):
    opened(tmp_path).array("a", (3,), np.int16)[:] = 7
    other = opened(tmp_path, "other")
    assert not other.continues and not other.array("a", (3,), np.int16).any()


def test_a_damaged_value_is_made_again(tmp_path):
    opened(tmp_path).once("value", lambda: 5)
    (tmp_path / "work/value.value").write_bytes(b"and then the power went")
    assert opened(tmp_path).once("value", lambda: 6) == 6


@pytest.mark.parametrize("name", ["a.array", "a.done", "value.value", "manifest.json"])
def test_links_and_pipes_are_not_followed(tmp_path, name):
    opened(tmp_path).array("a", (3,), np.int16)[:] = 7
    beside, place = tmp_path / "beside", tmp_path / "work" / name
    beside.write_bytes(b"of somebody else")
    for make in (lambda: place.symlink_to(beside), lambda: os.mkfifo(place)):
        place.unlink(missing_ok=True)
        make()
        work = opened(tmp_path)
        work.array("a", (3,), np.int16)[:] = 8
        work.done("a", 3)[:] = True
        assert work.once("value", lambda: 5) == 5
        assert beside.read_bytes() == b"of somebody else"


def test_a_folder_in_the_place_of_a_working_file(tmp_path):
    work = opened(tmp_path)
    (tmp_path / "work/a.array").mkdir()
    with pytest.raises(OutputError, match="a.array"):
        work.array("a", (3,), np.int16)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": 3}', "[" * 100_000])
def test_a_damaged_manifest_is_a_new_beginning(tmp_path, text):
    opened(tmp_path).array("a", (3,), np.int16)[:] = 7
    (tmp_path / "work/manifest.json").write_text(text)
    assert not opened(tmp_path).continues


def test_after_a_restart_of_the_machine_what_was_sealed_counts(tmp_path, monkeypatch):
    """What was written later may or may not have reached the disk."""
    first = opened(tmp_path)
    done = first.done("x", 4)
    done[0] = True
    first.seal()
    done[1] = True
    first.done("later", 4)[:] = True
    assert opened(tmp_path).done("x", 4).tolist() == [True, True, False, False]
    monkeypatch.setattr(work, "_boot", lambda: "another")
    second = opened(tmp_path)
    assert second.continues and second.done("x", 4).tolist() == [True, False, False, False]
    assert not second.done("later", 4).any()


def test_values_that_change_all_the_time_cost_a_share_of_it(tmp_path):
    made, kept = [], opened(tmp_path)
    for n in range(1000):
        kept.keep("state", lambda n=n: made.append(n) or [n])
    assert 1 <= len(made) < 1000
    kept.keep("state", lambda: ["end"], last=True)
    assert kept.kept("state") == ["end"]


def test_shots_share_their_files(tmp_path):
    """A film of 500 cuts needs as many open files as one shot; its rows do not mix."""
    whole = opened(tmp_path)
    for n in range(0, 1000, 2):
        rows = whole.rows(n, n + 2, 1000)
        rows.array("depth", (2, 3))[:] = n
        rows.done("depth", 2)[:] = True
    assert len(whole.arrays) == 2
    assert (whole.array("depth", (1000, 3))[:, 0] == np.arange(1000) // 2 * 2).all()


def test_room_is_taken_at_once(tmp_path):
    """A mapping of a file with holes kills who writes to it when the disk is full."""
    kept = opened(tmp_path)
    kept.array("a", (1 << 20,), np.uint8)
    assert (tmp_path / "work/a.array").stat().st_blocks * 512 >= 1 << 20


def test_a_full_disk_is_an_error_before_anything_is_lost(tmp_path, monkeypatch):
    def full(file, start, size):
        raise OSError(28, os.strerror(28))

    kept = opened(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"a\.array.*4 MB"):
        kept.array("a", (1_000_000,))
    assert not (tmp_path / "work/a.array").exists()


def test_file_systems_that_cannot_reserve_are_written_to(tmp_path, monkeypatch):
    def unable(file, start, size):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(os, "posix_fallocate", unable)
    opened(tmp_path).array("a", (300_000,))[:] = 1
    assert (tmp_path / "work/a.array").stat().st_size == 1_200_000


def test_nothing_is_sealed_after_the_end(tmp_path, monkeypatch):
    """The thread that seals was in the middle of it when the run was complete."""
    monkeypatch.setattr(work, "SEALED", 0.0)
    for _ in range(20):
        with Work(tmp_path / "work", {}, every=0.0) as kept:
            kept.done("x", 3)[:] = True
            kept.remove()
        assert not (tmp_path / "work").exists()


def test_a_full_disk_while_sealing_is_not_what_ends_a_run(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OutputError("full")

    monkeypatch.setattr(work, "SEALED", 0.0)
    with pytest.raises(Killed), Work(tmp_path / "work", {}, every=0.0) as kept:
        kept.done("x", 3)[:] = True
        monkeypatch.setattr(work, "atomic_write", full)
        time.sleep(0.1)
        assert kept.thread.is_alive()
        raise Killed


def test_only_working_files_are_removed(tmp_path):
    kept = opened(tmp_path)
    kept.array("a", (3,))
    kept.once("v", lambda: 1)
    (tmp_path / "work/holiday.jpg").write_text("mine")
    (tmp_path / "work/mine").mkdir()
    kept.remove()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["holiday.jpg", "mine"]


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.array").write_text("mine")
    (tmp_path / "work").symlink_to("elsewhere")
    with pytest.raises(UsageError):
        opened(tmp_path)
    claim.cleared(tmp_path / "work")
    assert (tmp_path / "elsewhere/a.array").read_text() == "mine"


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two shots."""
    other = [255 - picture for picture in pan(5, (96, 64), seed=3)]
    return film(tmp_path_factory.mktemp("clip") / "clip.mkv", pan(9, (96, 64)) + other, "ffv1", "bgr0")


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """A depth network that is quick, in the place of the shipped one."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    weights.save(DepthNet(DepthConfig(channels=(8, 8, 8, 8, 8))), path)
    real = inspect.unwrap(job.load_networks)

    def load_networks(options, *rest):
        return real(replace(options, depth_model=str(path)), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glvid.inference.clip.load_networks", load_networks)
        yield


@pytest.fixture(scope="module", autouse=True)
def small():
    """Networks and refinement at the size of the clip, and a camera that is hardly solved: it only takes time."""
    plain = inspect.unwrap(predict.working_size)
    before = plain.__defaults__
    plain.__defaults__ = (96, *before[1:])
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((shot, "ANNEAL"), (shot, "WIDE"), (long, "ANNEAL"), (long, "WIDE")):
            patch.setattr(module, name, ((2.0, 3),))
        patch.setattr(shot, "SHARP", ())
        yield
    plain.__defaults__ = before


class Counting:
    """A report that raises at the given call."""

    def __init__(self, last=None, error=Killed):
        self.calls, self.last, self.error, self.said = 0, last, error, []

    def told(self, *_):
        self.calls += 1
        if self.calls == self.last:
            raise self.error

    def report(self):
        return inference.Report(self.told, self.told, self.said.append)


@pytest.fixture(scope="module", params=["none", "output", "both"])
def whole(request, clip, tmp_path_factory):
    """Mode, prints of a run that was left alone, and how often it reported."""
    folder, counting = tmp_path_factory.mktemp("whole") / "run", Counting()
    options = replace(OPTIONS, refine=request.param)
    info = inference.run(clip, folder, options, counting.report())
    assert len(info["frames"]) == 14 and info["frames"][-1]["shot"] == 1 and info["options"]["seed"] == 0
    return options, prints(folder), counting.calls, info["result_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_stopped_run_goes_on_to_the_same_bytes(whole, share, clip, tmp_path, monkeypatch):
    options, expected, calls, print_ = whole
    monkeypatch.setattr(Work, "seal", lambda self: None)
    with pytest.raises(Killed):
        inference.run(clip, tmp_path / "run", options, Counting(max(1, round(share * calls))).report())
    with pytest.raises(UsageError, match="--resume"):
        inference.run(clip, tmp_path / "run", options)
    info = inference.run(clip, tmp_path / "run", replace(options, resume=True))
    assert prints(tmp_path / "run") == expected and info["result_sha256"] == print_


@pytest.fixture(scope="module")
def plain(clip, tmp_path_factory):
    """Prints of a run without refinement, and how often it reported."""
    folder, counting = tmp_path_factory.mktemp("plain") / "run", Counting()
    inference.run(clip, folder, replace(OPTIONS, refine="none"), counting.report())
    return prints(folder), counting.calls


@pytest.mark.parametrize("length", [2500, 20_000, 60_000, 150_000, 300_000])
def test_a_run_that_a_full_disk_ended_goes_on_when_there_is_room(length, plain, clip, tmp_path):
    options = replace(OPTIONS, refine="none")
    with limited(length), pytest.raises(OutputError, match=r"/run/.*: cannot be written: File too large; .*needs"):
        inference.run(clip, tmp_path / "run", options)
    left = prints(tmp_path / "run")
    whole = {name: print_ for name, print_ in left.items() if not name.startswith(".glvid") and name != "run.json"}
    assert whole.items() <= plain[0].items()
    temporary = [path for path in (tmp_path / "run").rglob("*") if re.match(r"\.glvid-\d+-|.*\.part$", path.name)]
    assert not temporary and not (tmp_path / "run/.glvid-lock").exists()
    inference.run(clip, tmp_path / "run", replace(options, resume=True))
    assert prints(tmp_path / "run") == plain[0]


def test_what_is_done_is_not_done_again(clip, tmp_path, monkeypatch):
    """Stopped while maps are written: no network, no flow, no solve after that."""
    counting = Counting()
    inference.run(clip, tmp_path / "whole", OPTIONS, counting.report())
    with pytest.raises(Killed):
        inference.run(clip, tmp_path / "run", OPTIONS, Counting(counting.calls - 8).report())

    def again(*_):
        raise AssertionError("done already")

    monkeypatch.setattr(decode, "estimated", again)
    monkeypatch.setattr("glvid.inference.clip.solve", again)
    monkeypatch.setattr(refine, "span_of", again)
    monkeypatch.setattr(predict.Flows, "sharp", again)
    inference.run(clip, tmp_path / "run", replace(OPTIONS, resume=True))
    assert prints(tmp_path / "run") == prints(tmp_path / "whole")


def test_maps_that_are_gone_are_written_again(plain, clip, tmp_path):
    stop = Counting(plain[1])  # the point cloud
    with pytest.raises(Killed):
        inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none"), stop.report())
    (tmp_path / "run/depth/000003.png").unlink()
    (tmp_path / "run/mask/000004.png").write_bytes(b"cut")
    inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none", resume=True))
    assert prints(tmp_path / "run") == plain[0]


def test_another_machine_begins_again_and_says_so(clip, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        inference.run(clip, tmp_path / "run", OPTIONS, Counting(20).report())
    monkeypatch.setattr("glvid.inference.clip.made_by", lambda *_: {"processor": "another"})
    report = Counting()
    inference.run(clip, tmp_path / "run", replace(OPTIONS, resume=True), report.report())
    assert any("begins again" in sentence for sentence in report.said)


def test_a_clip_that_was_changed_meanwhile_is_another_run(clip, tmp_path):
    copy = tmp_path / "clip.mkv"
    copy.write_bytes(clip.read_bytes())
    with pytest.raises(Killed):
        inference.run(copy, tmp_path / "run", OPTIONS, Counting(9).report())
    time_ = copy.stat().st_mtime
    data = bytearray(copy.read_bytes())
    data[-200] ^= 1
    copy.write_bytes(data)
    os.utime(copy, (time_, time_))
    with pytest.raises(UsageError, match="sha256_of_ends"):
        inference.run(copy, tmp_path / "run", replace(OPTIONS, resume=True))


def test_overwrite_of_a_stopped_run_leaves_nothing_of_it(plain, clip, tmp_path):
    with pytest.raises(Killed):
        inference.run(clip, tmp_path / "run", OPTIONS, Counting(30).report())
    (tmp_path / "run/.glvid-work/mine.txt").write_text("x")
    inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none", overwrite=True))
    mine = prints(tmp_path / "run")
    assert mine.pop(".glvid-work/mine.txt") and mine == plain[0]


def test_a_run_killed_after_its_last_word_is_done_and_cleaned_up(clip, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Work, "remove", lambda self: None)
        inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none"))
    assert (tmp_path / "run/.glvid-work").is_dir()
    (tmp_path / "run/.glvid-1-report.html").write_text("half")
    inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none"))
    assert not list((tmp_path / "run").glob(".glvid-*"))


@pytest.mark.slow
def test_a_real_kill(clip, tmp_path):
    """SIGKILL as soon as the first maps are there; the lock that it leaves is taken over."""
    words = [sys.executable, "-m", "glvid", "infer", str(clip), "-q", "-o", str(tmp_path / "run")]
    words += ["--max-size", "96", "--max-points", "2000"]
    with subprocess.Popen(words) as process:
        while process.poll() is None and not (tmp_path / "run/depth").is_dir():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert results.read_info(tmp_path / "run")["status"] == "running"
    assert (tmp_path / "run/.glvid-lock").exists()
    subprocess.run([*words, "--resume"], check=True)
    left = prints(tmp_path / "run")
    assert not any(".glvid" in name for name in left) and len(left) == 14 * 4 - 2 + 6


@pytest.mark.slow
def test_the_same_twice(clip, tmp_path):
    """With the flow network, whose batches depend on which thread asks first, and with the temporal filter."""
    options = replace(OPTIONS, flow="net", refine="both", temporal_filter=True, max_size=64)
    for name in ("a", "b"):
        inference.run(clip, tmp_path / name, options)
    assert prints(tmp_path / "a") == prints(tmp_path / "b")


# ---------------------------------------------------------------- reading on


def test_frames_are_read_on_from_an_index(tmp_path):
    path = film(tmp_path / "x.mp4", pan(12))
    every = [e for e in video.frames(video.probe(path), stride=2) if isinstance(e, Frame)]
    later = [e for e in video.frames(video.probe(path), stride=2, after=4) if isinstance(e, Frame)]
    assert [f.index for f in later] == [6, 8, 10]
    assert all(torch.equal(a.image, b.image) and a.time == b.time for a, b in zip(every[3:], later, strict=True))


def test_losses_are_not_told_twice(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(b"no picture" if n in (1, 2) else picture(n))
    clip = video.probe(tmp_path)
    told = [(e.first, e.last) for e in video.frames(clip) if isinstance(e, video.Lost)]
    assert told == [(1, 1), (2, 2)]
    assert [(e.first, e.last) for e in video.frames(clip, after=1) if isinstance(e, video.Lost)] == [(2, 2)]
    assert not [e for e in video.frames(clip, after=3)]


def picture(n):
    import cv2

    return cv2.imencode(".png", np.full((48, 64, 3), 40 * n, np.uint8))[1].tobytes()


def test_pieces_of_a_video_are_joined_without_coding_them_again(tmp_path):
    pictures = pan(10, (97, 64))
    parts = []
    for k in range(0, 10, 4):
        parts.append(tmp_path / f"{k}.mp4")
        video.write_video(parts[-1], pictures[k : k + 4], 29.97)
    video.join(tmp_path / "all.mp4", parts)
    found = [e for e in video.frames(video.probe(tmp_path / "all.mp4")) if isinstance(e, Frame)]
    pieces = [e for part in parts for e in video.frames(video.probe(part)) if isinstance(e, Frame)]
    assert [f.time for f in found] == pytest.approx([n / 29.97 for n in range(10)], abs=1e-4)
    assert all(torch.equal(a.image, b.image) for a, b in zip(found, pieces, strict=True))
    with pytest.raises(OutputError):
        video.join(tmp_path / "none.mp4", [tmp_path / "missing.mp4"])
    assert not (tmp_path / "none.mp4").exists()


# ---------------------------------------------------------------- what networks do not say, and memory


class Saying(torch.nn.Module):
    """A depth network that says the same of every frame."""

    def __init__(self, depth, most=None):
        super().__init__()
        self.said, self.most, self.asked = depth, most, []

    def estimate(self, images):
        self.asked.append(tuple(images.shape))
        if self.most is not None and images.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return self.said(images), None


@pytest.mark.parametrize(("side", "status"), [(3, "complete"), (20, "partial")])
def test_pixels_that_the_network_says_nothing_of(side, status, clip, tmp_path, monkeypatch):
    """Not a number, infinite or negative: stored as 0, left out of everything, counted; losses above 1 %."""

    def said(images):
        depth = torch.full_like(images[:, :1], 2.0)
        depth[:, :, 10 : 10 + side, 8 : 8 + side] = torch.tensor([np.nan, np.inf, -1.0, 0.0]).repeat(5)[:side]
        return depth

    real = inference.clip.load_networks
    monkeypatch.setattr("glvid.inference.clip.load_networks", lambda *given: replace(real(*given), depth=Saying(said)))
    info = inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="none"))
    run = results.open_run(tmp_path / "run")
    assert info["status"] == status and any("said nothing" in sentence for sentence in info["warnings"])
    for row in run.rows:
        depth, mask = run.depth(row), run.mask(row)
        hole = np.isnan(depth)
        assert hole[11 : 9 + side, 9 : 7 + side].all() and hole.sum() <= (side + 2) ** 2
        assert (mask[hole] == 1).all() and np.isfinite(depth[~hole]).all()


def test_batches_are_halved_where_memory_is_short():
    images = np.random.default_rng(0).integers(0, 255, (7, 32, 64, 3), dtype=np.uint8)

    def said(images):
        return images.mean(1, keepdim=True) + 1

    rich, poor = Saying(said), Saying(said, most=2 * 3 * 32 * 64)
    assert np.array_equal(predict.estimated(rich, images)[0], predict.estimated(poor, images)[0])
    assert max(shape[0] for shape in poor.asked[-1:]) <= 2 and poor.asked[0][0] == 7


def test_then_images_are_cut_into_tiles():
    """Every tile in a unit of its own, as networks have it: the map is smooth again, and right up to one factor."""
    ramp = np.tile(np.linspace(50, 200, 288, dtype=np.uint8)[None, :, None], (1, 1, 3))
    images = np.repeat(ramp, 160, 0)[None]

    def said(images):
        return (images.mean(1, keepdim=True) + 1) * float(images.mean())

    whole = predict.estimated(Saying(said), images)[0]
    tiled = Saying(said, most=3 * 160 * 200)
    ratio = predict.estimated(tiled, images)[0] / whole
    assert np.ptp(np.log(ratio)) < 1e-3 and {shape[3] for shape in tiled.asked} == {288, 192}
    tall = predict.estimated(Saying(said, most=3 * 160 * 200), images.transpose(0, 2, 1, 3))[0]
    assert np.ptp(np.log(tall.transpose(0, 2, 1) / whole)) < 1e-3


def test_no_smaller_part_will_do(clip, tmp_path, monkeypatch):
    real = inference.clip.load_networks
    starved = Saying(lambda images: images[:, :1], most=0)
    monkeypatch.setattr("glvid.inference.clip.load_networks", lambda *given: replace(real(*given), depth=starved))
    with pytest.raises(MemoryExhausted, match="--max-size"):
        inference.run(clip, tmp_path / "run", OPTIONS)
    assert min(shape[0] for shape in starved.asked) == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
     OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")],
    ids=["python", "torch", "system", "thread"],
)  # fmt: skip
def test_memory_of_other_kinds(error, clip, tmp_path, monkeypatch):
    with pytest.raises(MemoryExhausted):
        inference.run(clip, tmp_path / "run", OPTIONS, Counting(5, error).report())


def test_other_errors_are_not_taken_for_memory(clip, tmp_path):
    with pytest.raises(RuntimeError, match="shape"):
        inference.run(clip, tmp_path / "run", OPTIONS, Counting(5, RuntimeError("shape")).report())


def test_gradients_of_fewer_images_at_once_are_the_same():
    net, images = DepthNet().requires_grad_(True), torch.rand(5, 3, 64, 96)
    found = []
    for at_once in (16, 2):
        net.zero_grad()
        refine.depth_of(net, images, at_once).log().square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 5
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(*found, strict=True))


def test_refinement_of_parameters_goes_on_in_smaller_parts(clip, tmp_path, monkeypatch):
    """The first step of every part that is too large fails; what is found is found all the same."""
    real, asked = refine.depth_of, []

    def starved(net, images, at_once):
        asked.append(at_once)
        if at_once > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(net, images, at_once)

    monkeypatch.setattr(refine, "depth_of", starved)
    monkeypatch.setattr(refine, "CONTRADICTED", 1e9)
    monkeypatch.setattr(refine, "PARALLAX", -1.0)
    inference.run(clip, tmp_path / "run", replace(OPTIONS, refine="params", steps=2))
    assert asked[:3] == [16, 8, 4] and set(asked[3:]) == {4, 16, 8}


# ---------------------------------------------------------------- signals


@pytest.fixture
def heard():
    """As in a terminal; what is started with `&` ignores Ctrl-C from the beginning."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def told(number, calls):
    """What comes of a signal at the third of several reports."""
    counting = Counting()
    with ends.stoppable(counting.report(), quiet=True) as report:
        for n in range(calls):
            if n == 2:
                signal.raise_signal(number)
                counting.said.append("unit")  # the unit goes on to its end
            report.advance(1)
    return counting


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, ends.Interrupted), (signal.SIGTERM, ends.Terminated)])
def test_a_signal_waits_for_the_unit_at_hand(number, error, heard):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(error):
        told(number, 5)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_second_signal_does_not_wait(heard):
    with pytest.raises(ends.Interrupted), ends.stoppable(inference.Report(), quiet=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it waited")


def test_nor_does_a_unit_without_end(heard, monkeypatch):
    monkeypatch.setattr(ends, "PATIENCE", 0.05)
    with pytest.raises(ends.Terminated), ends.stoppable(inference.Report(), quiet=True):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30)
        raise AssertionError("it waited")


def test_a_signal_that_was_ignored_stays_so(heard):
    """`nohup`, or `&` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ends.stoppable(inference.Report(), quiet=True) as report:
        signal.raise_signal(signal.SIGINT)
        report.advance(1)


def test_a_signal_in_the_last_unit_counts(heard):
    with pytest.raises(ends.Interrupted), ends.stoppable(inference.Report(), quiet=True):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say what is in memory")
def test_freed_memory_goes_back_now_and_then(tmp_path, monkeypatch):
    """200 MB in small pieces, of which some stay, so that a C library gives nothing back by itself."""
    looked, trim = threading.Event(), work._trim

    def trimmed() -> None:
        trim()
        looked.set()

    monkeypatch.setattr(work, "TRIMMED", 0.05)
    monkeypatch.setattr(work, "_trim", trimmed)
    pieces = [bytearray(b"x" * 20_000) for _ in range(10_000)]
    stay, before = pieces[::50], resident(os.getpid())["RssAnon"]
    with Work(tmp_path / "work", {}):
        del pieces
        looked.clear()
        assert looked.wait(10)
        assert resident(os.getpid())["RssAnon"] < before - 100
    assert len(stay) == 200
