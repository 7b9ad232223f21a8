"""The whole way of a small clip, with small untrained networks: every run folder obeys the contract."""

import json
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from run_folder import check

from glvid import cli, inference, refine, results, weights
from glvid.cli import commands
from glvid.dense import Dense
from glvid.errors import InputError, UsageError
from glvid.exports.ply import read_ply
from glvid.inference import clip as clip_module
from glvid.inference import job, write
from glvid.inference.job import Decoded, Solved
from glvid.inference.work import Work
from glvid.inference.write import preview_range
from glvid.networks import CameraNet, DepthConfig, DepthNet
from glvid.predict import Flows, chosen_precision, dis_flow, estimated
from glvid.refine import Progress
from glvid.solve.matches import tracks
from glvid.solve.starts import portion, thinned
from glvid.synthetic import scene
from glvid.types import Intrinsics, Shot, Solution

OPTIONS = inference.InferOptions(steps=1)


@pytest.fixture(scope="module")
def truth():
    return scene(900001, "handheld", frames=4, size=(128, 96))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder with networks made on the spot."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, net in (("depth-small", DepthNet()), ("camera-small", CameraNet())):
        weights.save(net, folder / f"{name}.safetensors", {"licence": "Apache-2.0", "trained": "not at all"})
    weights.write_index(folder)
    return folder


@pytest.fixture(autouse=True)
def untrained(monkeypatch, models):
    monkeypatch.setattr(weights, "folder", lambda: models)


def save(folder, images, name="{:02d}.png"):
    """Frames (N, 3, H, W) as an image folder."""
    folder.mkdir()
    for k, image in enumerate(images):
        bgr = (image.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        (folder / name.format(k)).write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def clip(truth, tmp_path_factory):
    return save(tmp_path_factory.mktemp("clip") / "room", truth.images)


@pytest.mark.parametrize("mode", ["none", "params", "output"])
def test_run_folder_obeys_the_contract(clip, tmp_path, mode):
    info = inference.run(clip, tmp_path / "run", replace(OPTIONS, refine=mode))
    check(tmp_path / "run")
    run = results.open_run(tmp_path / "run")
    assert len(run.rows) == 4 and info["status"] == "complete" and info["refine"]["mode"] == mode
    assert [row.name for row in run.rows] == ["00.png", "01.png", "02.png", "03.png"]
    assert all(np.isfinite(run.depth(row)).all() for row in run.rows)
    assert (info["refine"]["loss_last"] is None) == (info["refine"]["curve"] == []) == (mode == "none")
    assert {len(values) for values in info["quality"].values()} == {4}
    assert not list((tmp_path / "run").glob(".glvid-*"))


@pytest.mark.parametrize("mode", ["output", "both"])
def test_the_curve_of_refinement_begins_and_ends_as_stated(clip, tmp_path, mode, monkeypatch):
    real = clip_module.solve
    monkeypatch.setattr(clip_module, "solve", lambda *given: replace(real(*given), parallax=9.0, cost=0.01))
    refine_ = inference.run(clip, tmp_path / "run", replace(OPTIONS, refine=mode, steps=3))["refine"]
    check(tmp_path / "run")
    assert len(refine_["curve"]) == {"output": 4, "both": 8}[mode]
    last = refine_["curve"][-4:]  # of its last descent
    assert refine_["loss_first"] == refine_["curve"][0] and refine_["loss_last"] == pytest.approx(min(last))


COMMANDS = (
    (Path("clip.mp4"), {}),
    (Path('it\'s a "clip" $(rm x)\nü.mp4'), {"refine": "both", "steps": 7, "temporal_filter": True}),
    (Path("-o"), {"distortion": "-0.1,0.02,0,0", "intrinsics": "fov=60", "keep": ("depth", "mask")}),
    (Path("--help"), {"masks": Path("-m n"), "start": 0.5, "end": 2.25, "stride": 3, "seed": -4}),
    (Path("x"), {"allow_partial": True, "depth_model": "hf:a/b"}),
)


@pytest.mark.parametrize(("source", "given"), COMMANDS)
def test_the_command_a_run_states_is_parsed_back_to_the_same_run(source, given, monkeypatch):
    options, seen = inference.InferOptions(**given), []

    def infer_one(path, folder, params):
        names = inference.InferOptions.__dataclass_fields__.keys() & params.keys()
        again = inference.InferOptions(**{n: params[n] for n in names} | {"keep": commands.kinds(params["keep"])})
        seen.append((path, again))
        return {"status": "complete"}

    monkeypatch.setattr(commands, "infer_one", infer_one)
    words = shlex.split(job.command_line(source, options))
    assert words[:2] == ["glvid", "infer"] and cli.command(words[1:]) == 0
    assert seen == [(source, options)]


def test_options_at_their_defaults_and_the_folder_are_not_said():
    options = inference.InferOptions(resume=True, overwrite=True)
    assert job.command_line(Path("a.mp4"), options) == "glvid infer a.mp4"


def test_stored_flow_leads_to_the_next_frame(clip, truth, tmp_path):
    inference.run(clip, tmp_path / "run", OPTIONS)
    run = results.open_run(tmp_path / "run")
    visible = truth.visible[0, 0].numpy() > 0
    error = np.linalg.norm(run.flow(run.rows[0]) - truth.flow[0].numpy(), axis=0)[visible]
    assert np.median(error) < 0.5


def test_given_camera_comes_back_as_given(clip, tmp_path):
    options = replace(OPTIONS, intrinsics="101.5,102.25,64.5,47", fix_intrinsics=True)
    inference.run(clip, tmp_path / "run", options)
    camera = json.loads((tmp_path / "run" / "camera.json").read_text())
    said = [camera[f"source_{k}"] for k in ("fx", "fy", "cx", "cy")]
    assert said == [101.5, 102.25, 64.5, 47] and camera["source"] == "given" and camera["fx_sigma"] == 0


def test_user_masks_are_moving(clip, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    raw = np.zeros((96, 128), np.uint8)
    raw[:, :40] = 255
    for k in range(4):
        (masks / f"{k:02d}.png").write_bytes(cv2.imencode(".png", raw)[1].tobytes())
    inference.run(clip, tmp_path / "run", replace(OPTIONS, masks=masks))
    run = results.open_run(tmp_path / "run")
    assert all(run.mask(row)[:, :36].min() > 0.9 for row in run.rows)


def test_a_second_run_is_already_done(clip, tmp_path):
    first = inference.run(clip, tmp_path / "run", OPTIONS)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert inference.run(clip, tmp_path / "run", OPTIONS)["frames"] == first["frames"]
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="--overwrite"):
        inference.run(clip, tmp_path / "run", replace(OPTIONS, max_size=64))


def test_metres_go_through_the_whole_run(clip, tmp_path):
    """Depth, path and cloud of the run in metres are those of the run in scene units, larger."""
    plain = inference.run(clip, tmp_path / "a", OPTIONS)
    metric = inference.run(clip, tmp_path / "b", replace(OPTIONS, scale_from="distance=1:60,40:12.5"))
    check(tmp_path / "b")
    assert (plain["depth"]["unit"], metric["depth"]["unit"]) == ("scene", "m")
    assert metric["options"]["scale_from"] == "distance=1:60,40:12.5" and metric["warnings"] == plain["warnings"]
    factor = metric["depth"]["scale"] / plain["depth"]["scale"]
    a, b = (results.open_run(tmp_path / name) for name in "ab")
    assert abs(factor - 1) > 0.1
    assert np.allclose(b.trajectory().world_T_cam[:, :3, 3], factor * a.trajectory().world_T_cam[:, :3, 3], atol=1e-9)
    clouds = [read_ply(tmp_path / name / "scene.ply").points for name in "ab"]
    assert np.median(clouds[1][:, 2]) == pytest.approx(factor * np.median(clouds[0][:, 2]), rel=0.02)


def test_a_measurement_of_no_use_is_a_warning(clip, tmp_path):
    """The maps are worth keeping; what cannot even be read is refused before anything is written."""
    info = inference.run(clip, tmp_path / "a", replace(OPTIONS, scale_from="distance=99:60,40:12.5"))
    assert info["depth"]["unit"] == "scene" and "Not in metres" in info["warnings"][-1]
    with pytest.raises(UsageError, match="--scale-from"):
        inference.run(clip, tmp_path / "b", replace(OPTIONS, scale_from="height"))
    assert not (tmp_path / "b").exists()


def test_cut_begins_a_new_world(truth, tmp_path):
    other = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(1)).repeat(1, 3, 1, 1)
    other = torch.nn.functional.interpolate(other, (96, 128), mode="nearest")
    clip = save(tmp_path / "cut", torch.cat([truth.images[:3], other[:1].repeat(2, 1, 1, 1)]))
    inference.run(clip, tmp_path / "run", OPTIONS)
    check(tmp_path / "run")
    run = results.open_run(tmp_path / "run")
    assert [row.shot for row in run.rows] == [0, 0, 0, 1, 1] and not run.rows[2].flow and run.rows[3].flow
    assert np.allclose(run.trajectory().world_T_cam[3], np.eye(4))


@pytest.mark.parametrize(("frames", "mode"), [(1, "none"), (1, "output"), (2, "output")])
def test_one_frame_and_two_equal_frames(truth, tmp_path, frames, mode):
    clip = save(tmp_path / "still", truth.images[:1].repeat(frames, 1, 1, 1))
    info = inference.run(clip, tmp_path / "run", replace(OPTIONS, refine=mode))
    check(tmp_path / "run")
    assert len(info["frames"]) == frames and info["camera"]["observable"] is False and info["warnings"]
    assert np.allclose(results.open_run(tmp_path / "run").trajectory().world_T_cam, np.eye(4))


def test_what_cannot_work_is_refused_before_anything_is_written(clip, tmp_path):
    for options, said in (
        (replace(OPTIONS, fix_intrinsics=True), "--intrinsics"),
        (replace(OPTIONS, intrinsics="1,2"), "--intrinsics"),
        (replace(OPTIONS, distortion="0,0,0,0"), "--distortion"),
        (replace(OPTIONS, device="cuda:77"), "--device"),
        (replace(OPTIONS, masks=tmp_path / "none"), "--masks"),
    ):
        with pytest.raises(UsageError, match=said):
            inference.run(clip, tmp_path / "run", options)
    with pytest.raises(InputError):
        (tmp_path / "empty.mp4").write_bytes(b"")
        inference.run(tmp_path / "empty.mp4", tmp_path / "run", OPTIONS)
    assert not (tmp_path / "run").exists()


def test_what_a_network_says_of_its_error_reaches_solve_and_refinement(clip, tmp_path, monkeypatch):
    """Frames, depth and sigma of every shot belong together; nothing of them is left in the folder."""
    torch.manual_seed(0)
    net, seen = DepthNet(DepthConfig(spread=True)), []
    net.spread.conv.weight.data.normal_(std=0.2)
    weights.save(net, tmp_path / "unsure.safetensors")
    net = weights.load(tmp_path / "unsure.safetensors", "depth")[0]
    refined = refine.refine
    monkeypatch.setattr(refine, "refine", lambda shot, *rest: (seen.append(shot), refined(shot, *rest))[1])
    out = tmp_path / "run"
    model = str(tmp_path / "unsure.safetensors")
    inference.run(clip, out, replace(OPTIONS, refine="output", precision="fp32", depth_model=model))
    (shot,) = seen
    depth, sigma = estimated(net, np.array(shot.images))
    assert (
        np.allclose(shot.depth, depth, rtol=1e-3) and np.allclose(shot.sigma, sigma, rtol=1e-3) and sigma.std() > 0.01
    )
    part = shot.part(1, 3)
    assert np.array_equal(part.sigma, shot.sigma[1:3]) and not list(out.glob(".glvid-*"))
    found = tracks(shot, Flows(shot, dis_flow), (1,), 40)
    assert found.sigma.shape == found.depth.shape and torch.allclose(
        found.sigma.median(dim=1).values, torch.tensor(1.0)
    )
    assert torch.equal(portion(found, 1, 3).sigma, found.sigma[1:3])
    assert torch.equal(thinned(found, 2).sigma, found.sigma[:, ::2])
    assert tracks(replace(shot, sigma=None), Flows(shot, dis_flow), (1,), 40).sigma is None


def test_the_preview_has_one_range_and_flow_across_a_cut_has_no_part_in_it(monkeypatch):
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 200, 3), dtype=np.uint8), (0, 0), 2)
    images = np.stack([texture[:, k : k + 96] for k in (0, 2, 4, 90, 92, 94)])  # a cut between the third and fourth
    depth = np.ones((6, 64, 96), np.float32)
    decoded = Decoded(
        [*range(6)], [k / 10 for k in range(6)], [""] * 6, [0, 3], [], [], images,
        np.zeros_like(images[..., 0]), depth, None, (192, 128),
    )  # fmt: skip
    solved = []
    for bounds, far in (((0, 3), 2.0), ((3, 6), 8.0)):
        still = Solution(
            Intrinsics(torch.full((2,), 80.0), torch.tensor([48.0, 32.0]), (96, 64)), None, False, "predicted",
            torch.eye(4).double().repeat(3, 1, 1), torch.ones(3).double(), 0.0, 0.0,
        )  # fmt: skip
        dense = Dense(np.full((3, 32, 48), far, np.float32), *np.zeros((2, 3, 32, 48), np.float32))
        shot = decoded.shot(bounds)
        solved.append(Solved(bounds, shot, Flows(shot, dis_flow), still, dense, Progress()))
    monkeypatch.setattr(write, "SAMPLED", 3)
    assert sorted(write.sampled_depth(solved)) == [2.0] * 2 * 8 * 12 + [8.0] * 2 * 8 * 12  # every other frame of either
    found = preview_range(decoded, solved)
    assert 3.0 < found.flow < 6.0  # 2 px at half the stored size
    assert found.near == pytest.approx(2.0) and found.far >= 8.0


@pytest.mark.parametrize(
    ("size", "kept"), [((96, 64), True), ((190, 126), True), ((192, 128), False), ((90, 60), False)]
)
def test_flow_is_stored_as_it_was_found_where_that_is_finer_than_dis_at_stored_size(size, kept):
    """Working size is 96x64; a frame moves by 3 % of its width."""
    wall = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8), (0, 0), 2)
    small = np.stack([wall[:, k : k + 96] for k in (3, 0)])
    shot = Shot(np.arange(2.0), small, np.ones((2, 64, 96), np.float32))
    asked = []

    def flow(a, b):
        asked.append(len(a))
        return dis_flow(a, b)

    s, asking = object.__new__(Solved), object.__new__(job.Job)  # no more of them than is needed
    vars(s).update(bounds=(5, 7), shot=shot, flows=Flows(shot, flow))
    vars(asking).update(options=OPTIONS, size=size)
    here, after = (cv2.resize(x, size) for x in small)
    found = write.stored_flow(asking, s, 5, here, after)
    assert found.shape == (2, *size[::-1]) and len(asked) == kept
    middle = found[:, size[1] // 4 : -size[1] // 4, size[0] // 4 : -size[0] // 4]
    assert np.median(middle[0]) == pytest.approx(3 * size[0] / 96, rel=0.05)
    assert np.abs(np.median(middle[1])) < 0.1


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16"])
def test_a_run_says_which_arithmetic_it_used(clip, tmp_path, asked):
    info = inference.run(clip, tmp_path / "run", replace(OPTIONS, precision=asked))
    assert info["precision"] == (chosen_precision("auto", "cpu") if asked == "auto" else asked)
    assert info["options"]["precision"] == asked and info["precision"] in ("fp32", "bf16")


def test_mapped_arrays_keep_their_values_when_their_pages_are_given_back(tmp_path):
    """And leave the process, if they are large: resident memory falls, and is taken again by the next look."""
    values = np.arange(64, dtype=np.uint8)[:, None]
    work = Work(tmp_path / "work", {}, every=0.02, little=100_000_000)
    with work:
        array = work.array("a", (64, 1 << 20), np.uint8)
        array[:] = values
        before = resident()
        time.sleep(0.2)
        assert resident() > before - 20e6  # so little is left alone
        others = [work.array(name, (64, 1 << 20), np.uint8) for name in "bcd"]
        for other in others:
            other[:] = values
        until = time.monotonic() + 10
        while resident() > before + 60e6 and time.monotonic() < until:
            time.sleep(0.02)
        assert resident() < before + 60e6  # of 200 MB more
        assert all((x == values).all() for x in (array, *others))
    assert not work.thread.is_alive()
    work.remove()
    assert not list(tmp_path.iterdir())


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_where_no_rigid_scene_fits_far_pairs_have_no_say(clip, tmp_path, monkeypatch):
    """The camera is then what near pairs and the network tell, though the clip is to be refined; its cost says why."""
    asked = []

    def solve(shot, flows, start, given, fix, full, *rest):
        asked.append(full)
        found = real(shot, flows, start, given, fix, full, *rest)
        return replace(found, cost=9.0 if full else 0.01)

    real = clip_module.solve
    monkeypatch.setattr(clip_module, "solve", solve)
    document = inference.run(clip, tmp_path / "a", replace(OPTIONS, refine="output"))
    assert asked == [True, False] and any("no rigid scene" in x for x in document["warnings"])
    asked.clear()
    inference.run(clip, tmp_path / "b", OPTIONS)
    assert asked == [False]
