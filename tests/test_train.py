"""Training: a few steps lower the loss, an interrupted run ends in the same state, augmentation keeps truth true."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from glvid import train, weights
from glvid.data.pool import Pool, augmented, collate, mirrored, row_type
from glvid.errors import UsageError
from glvid.geometry import rigid_flow
from glvid.networks import CameraConfig, CameraNet, DepthConfig, DepthNet, FlowConfig, FlowNet
from glvid.types import Intrinsics
from glvid.warp import warp

SIZE = (96, 64)


def slanted_pair(seed: int) -> np.ndarray:
    """A row of the pool with truth by hand: a textured plane seen by a camera that moves sideways and turns."""
    rng = np.random.default_rng(seed)
    w, h = SIZE
    row = np.zeros((), row_type(SIZE))
    K = Intrinsics(torch.tensor([80.0, 80.0]), torch.tensor([w / 2, h / 2]), SIZE)
    depth = torch.linspace(6, 3, h)[None, :, None].expand(1, h, w) * float(rng.uniform(0.7, 1.4))
    motion = torch.eye(4)
    motion[0, 3] = float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.2))
    flow, _ = rigid_flow(depth, K, motion)
    back, _ = rigid_flow(depth, K, torch.linalg.inv(motion))  # rows keep their depth under a sideways motion
    pattern = torch.rand(1, 3, h // 4, w // 4, generator=torch.Generator().manual_seed(seed))
    b = torch.nn.functional.interpolate(pattern, (h, w), mode="bicubic").clamp(0, 1)
    a, _ = warp(b, flow[None])
    row["image"] = (255 * torch.cat([a, b])).byte().permute(0, 2, 3, 1).numpy()
    row["depth"], row["sure"] = depth.numpy(), 255
    row["flow"] = torch.stack([flow, back]).permute(0, 2, 3, 1).numpy()
    row["visible"], row["b_T_a"], row["focal"], row["center"] = 1, motion.numpy(), K.focal.numpy(), K.center.numpy()
    return row


@pytest.fixture
def out(tmp_path):
    """An output folder whose pool is filled."""
    for name in ("train", "held"):
        ring, counter = Pool(tmp_path / "pool" / f"{name}.bin", SIZE, 8).open()
        ring[:] = np.stack([slanted_pair(k) for k in range(8)])
        counter[0] = 8
    return tmp_path


def options(out, **changes):
    small = train.Options(
        "depth", out, steps=6, rate=2e-3, batch=2, size=SIZE, rendered=SIZE, rows=8, held=8, render=False
    )
    return replace(small, precision="fp32", **changes)


SMALL = {
    "depth": lambda config=None: DepthNet(config or DepthConfig(channels=(16, 16, 16, 32, 32))),
    "flow": lambda config=None: FlowNet(config or FlowConfig(channels=(16, 16, 16, 16, 16), matched=16, hidden=32)),
    "camera": lambda config=None: CameraNet(config or CameraConfig(frame=16, pair=(16, 16, 16, 32), hidden=32)),
}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(train, "KINDS", {kind: (build, None) for kind, build in SMALL.items()})


def steps(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [x for x in lines if "loss" in x], [x for x in lines if "held" in x]


@pytest.mark.parametrize("stage", ["depth", "flow"])
def test_a_few_steps_lower_the_held_loss(out, stage):
    folder = train.train(options(out, stage=stage, steps=30, batch=4, rate=1e-3))
    logged, held = steps(out)
    assert [x["step"] for x in logged] == list(range(30)) and len(held) == 2
    key = "value" if stage == "depth" else "loss_flow"
    assert held[-1]["held"][key] < 0.97 * held[0]["held"][key]
    for kind in train.STAGES[stage]:
        _, info = weights.load(folder / f"{kind}-small.safetensors", kind)
        assert info["trained"]["steps"] == 30


def test_an_interrupted_run_resumes_to_the_same_state(out, monkeypatch):
    monkeypatch.setattr(train, "held", lambda *_: {})
    train.train(options(out))
    whole = weights.load_checkpoint(out / "checkpoints" / "last.pt")
    for path in ("checkpoints/last.pt", "log.jsonl"):
        (out / path).unlink()

    class Stop(Exception):
        pass

    def average_then_stop(mean, nets, step, go_on=train.average):
        go_on(mean, nets, step)
        if step == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(train, "average", average_then_stop)
        train.train(options(out, every=0.0))
    assert weights.load_checkpoint(out / "checkpoints" / "last.pt")["step"] == 3
    train.train(options(out, resume=True))
    again = weights.load_checkpoint(out / "checkpoints" / "last.pt")
    assert again["step"] == whole["step"] == 6
    for part in ("nets", "mean"):
        for k, v in whole[part].items():
            assert torch.equal(v, again[part][k]), k
    assert [x["step"] for x in steps(out)[0]] == list(range(6))


def test_training_stops_at_the_first_value_that_is_not_finite(out, monkeypatch):
    monkeypatch.setattr(train, "held", lambda *_: {})
    ring, _ = Pool(out / "pool" / "train.bin", SIZE, 8).open()
    train.train(options(out, steps=1))
    before = (out / "checkpoints" / "last.pt").read_bytes()
    ring["depth"] = np.nan
    with pytest.raises(train.GlvidError, match="not finite at step 1"):
        train.train(options(out, resume=True))
    assert (out / "checkpoints" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("seed", range(6))
def test_augmented_truth_stays_true(seed):
    """Flow is still the flow of depth, motion and camera after crop, resize, time reversal and mirror."""
    item = augmented(np.random.default_rng(seed), slanted_pair(seed), (64, 64))
    batch = collate([item], (64, 64), "cpu")
    flow, _ = rigid_flow(batch.depth, batch.intrinsics, batch.b_T_a)
    assert (flow - batch.flow).abs().max() < 0.05  # half floats, nearest lookup of a slanted plane
    assert batch.flow.abs().max() > 0.5


def test_mirroring_twice_changes_nothing():
    item = augmented(np.random.default_rng(3), slanted_pair(0), (64, 32))
    twice = mirrored(mirrored(item))
    for k, v in item.items():
        assert np.allclose(v, twice[k]), k


def test_losses_are_zero_at_the_truth_and_grow():
    depth = torch.rand(2, 1, 32, 64) * 5 + 2
    pyramid = [1 / depth[..., :: 2**k, :: 2**k] for k in range(4)]
    everywhere = torch.ones_like(depth)
    exact = train.depth_loss(pyramid, depth, everywhere)
    assert all(float(v) < 1e-5 for v in exact.values())
    scaled = train.depth_loss([3 * d for d in pyramid], depth, everywhere)
    assert float(scaled["value"]) < 1e-5 and float(scaled["slope"]) < 1e-4
    assert abs(float(scaled["scale"]) - np.log(3)) < 1e-4
    half = torch.cat([everywhere[..., :32], torch.zeros_like(everywhere[..., 32:])], -1)
    wrong = [torch.where(half[..., :: 2**k, :: 2**k] > 0, d, 5 * d) for k, d in enumerate(pyramid)]
    assert all(float(v) < 1e-5 for v in train.depth_loss(wrong, depth, half).values())  # unsure pixels do not count
    bent = train.depth_loss([d**1.2 for d in pyramid], depth, everywhere)
    assert float(bent["value"]) > 0.02 and float(bent["slope"]) > 0.02


def test_the_joint_stage_runs_on_windows_and_moves_every_network():
    torch.manual_seed(0)
    nets = torch.nn.ModuleDict({kind: train.KINDS[kind][0]() for kind in train.STAGES["joint"]})
    frames = torch.from_numpy(np.stack([slanted_pair(0)["image"][[0, 1, 0]]])).permute(0, 1, 4, 2, 3).float() / 255
    loss, parts = train.joint_stage(nets, frames, nets["depth"])
    loss.backward()
    assert torch.isfinite(loss) and {"photometric", "structure", "epipolar", "prior_depth"} <= parts.keys()
    for kind, net in nets.items():
        assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) > 0, kind


def test_schedule_warms_up_and_decays():
    rates = [train.schedule(k, 1000) for k in range(1000)]
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1, abs=0.02) and rates[-1] == pytest.approx(0.02, abs=1e-3)
    assert 80 < int(np.argmax(rates)) < 120


def test_shapes_are_multiples_of_32():
    assert train.shapes((384, 224)) == [(384, 224), (384, 128), (320, 256), (256, 320)]


def test_what_a_user_can_get_wrong(out, tmp_path):
    with pytest.raises(UsageError, match="no training stage"):
        train.train(options(out, stage="sleep"))
    with pytest.raises(UsageError, match="--init"):
        train.train(options(out, stage="joint"))
    with pytest.raises(UsageError, match="no folder at"):
        train.real_clips(options(out, data=(tmp_path / "none",)))
    with pytest.raises(UsageError, match="no film left"):
        train.real_clips(options(out, data=(out / "pool",)))


def test_real_clips_teach_depth(out, monkeypatch):
    """Rows of real clips are drawn beside rendered ones, and those watched are measured but not learned from."""
    tables = [np.stack([slanted_pair(k) for k in range(8, 12)]), np.stack([slanted_pair(k) for k in range(12, 16)])]
    monkeypatch.setattr(train, "lesson_tables", lambda options: (tables[:1], tables[1:]))
    drawn, seen = train.drawn, []
    monkeypatch.setattr(train, "drawn", lambda rows, *rest: seen.append(rows) or drawn(rows, *rest))
    train.train(options(out, steps=12, data=(out,)))
    logged, held = steps(out)
    real = [x for x in logged if "real_value" in x]
    assert 0 < len(real) < 12 and all("scale" not in x for x in real)
    assert "abs_rel_real" in held[-1]["held"]
    assert sum(rows is tables[1] for rows in [r[0] for r in seen]) == len(held)


def test_clips_that_teach_nothing_are_left_out(tmp_path, monkeypatch):
    """`lesson_tables` keeps clips whose depth flow determines, and says what became of all."""
    sure = np.stack([slanted_pair(k) for k in range(2)])
    unsure = sure.copy()
    unsure["sure"] = round(255 * train.GUESS)
    names = [f"clip{k}" for k in range(12)]
    monkeypatch.setattr(train, "real_clips", lambda options: names)
    monkeypatch.setattr(
        train, "taught", lambda clip, cache, *nets: ((unsure if clip == "clip0" else sure), [f"{clip}: told"])
    )
    learned, watched = train.lesson_tables(options(tmp_path))
    assert len(learned) == 10 and len(watched) == 1
    assert (tmp_path / "clips.txt").read_text().splitlines() == [f"{name}: told" for name in names]
