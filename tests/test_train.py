"""Training: a few steps lower the held loss, a killed run goes on as if it had not been, two processes learn as one."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_frames import clip_of, film

from glvid import train, weights
from glvid.cli import command
from glvid.data.pool import Batch, Pool, augmented, collate, draw, fill, mirrored, row_type, shadowed, told, whole
from glvid.errors import GlvidError, ModelError, OutputError, UsageError
from glvid.geometry import rigid_flow
from glvid.losses import PAPER, LossWeights
from glvid.networks import CameraConfig, CameraNet, DepthConfig, DepthNet, FlowConfig, FlowNet
from glvid.networks.flow import Matched
from glvid.networks.lite import Lite
from glvid.networks.lite import rows as rows_of
from glvid.synthetic.collage import photos
from glvid.train import Options, loop, sources, state, supervised
from glvid.train import options as telling
from glvid.train.joint import OBJECTIVES, Lenses, astray, joint_stage, predicted, unlikeness
from glvid.train.pretrained import BASE, pretrained
from glvid.types import Intrinsics, Outputs
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
    row["known"] = 1
    return row


@pytest.fixture
def out(tmp_path):
    """An output folder whose pool is filled."""
    for name, rows in (("train", 10), ("held", 8)):
        ring, counter = Pool(tmp_path / "pool" / f"{name}.bin", SIZE, rows).open()
        ring[:8] = np.stack([slanted_pair(k) for k in range(8)])
        counter[0] = 8
    return tmp_path


def options(out, **changes):
    return replace(
        Options(
            "depth", out, init="none", steps=6, rate=2e-3, batch=2, size=SIZE, rendered=SIZE, rows=10, held=8,
            render=False, precision="fp32", device="cpu",
        ),
        **changes,
    )  # fmt: skip


SMALL = {
    "depth": lambda config=None: DepthNet(config or DepthConfig(channels=(16, 16, 16, 32, 32))),
    "flow": lambda config=None: FlowNet(config or FlowConfig(channels=(16, 16, 16, 16, 16), matched=16, hidden=32)),
    "camera": lambda config=None: CameraNet(config or CameraConfig(frame=16, pair=(16, 16, 16, 32), hidden=32)),
}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    small = {kind: (build, None) for kind, build in SMALL.items()}
    monkeypatch.setattr(state, "KINDS", small), monkeypatch.setattr(sources, "KINDS", small)


def steps(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    held = out / "validation.jsonl"
    return lines, [json.loads(line) for line in held.read_text().splitlines()] if held.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["depth", "flow"])
def test_a_few_steps_lower_the_held_loss(out, stage):
    folder = train.train(options(out, stage=stage, steps=30, batch=4, rate=1e-3))
    logged, held = steps(out)
    assert [x["step"] for x in logged] == list(range(30)) and [x["step"] for x in held] == [1, 30]
    key = "value" if stage == "depth" else "loss_flow"
    assert held[-1][key] < 0.97 * held[0][key]
    assert len(state.checkpoints(options(out), stage)) == 2 and (out / f"checkpoints/{stage}-best.pt").exists()
    for kind in telling.STAGES[stage]:
        _, info = weights.load(folder / f"{kind}-small.safetensors", kind)
        assert info["trained"]["steps"] == 30
        said = (folder / f"{kind}-small.md").read_text()
        assert info["sha256"] in said and 'stage = "' + stage in said and "| metric |" in said


def losses(out) -> list[tuple[str, int, float]]:
    return [(x["stage"], x["step"], x["loss"]) for x in steps(out)[0]]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    found = weights.load_checkpoint(path)
    return {f"{part}.{k}": v for part in ("nets", "mean") for k, v in found[part].items()}


RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import test_train as t
from glvid.train import Watcher, sources, state, train
state.KINDS = sources.KINDS = {{kind: (build, None) for kind, build in t.SMALL.items()}}
train(t.options(Path({out!r}), {changes}), Watcher(lambda said: print("told:", said, file=sys.stderr)))
"""


def started(out: Path, changes: str, **environment: str) -> subprocess.Popen:
    """Training in a process of its own."""
    here = Path(__file__).parent
    code = RUN.format(tests=str(here), root=str(here.parent), out=str(out), changes=changes)
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses(out, tmp_path_factory):
    """kill -9 in the middle, then --resume: the log and the weights are those of a run that was left alone."""
    other = tmp_path_factory.mktemp("whole")
    (out / "pool").rename(other / "pool")
    torch.set_num_threads(1)
    train.train(options(other, steps=8, every=0.0))
    whole = losses(other)
    for name in ("checkpoints", "log.jsonl", "weights", "options.toml"):
        (other / name).rename(out / name)  # kept, and the pool is there for the run that will be killed
    process = started(other, "steps=8, every=0.0")
    while process.poll() is None and (not (other / "log.jsonl").exists() or len(losses(other)) < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cut = len(losses(other))
    assert process.returncode == -signal.SIGKILL and 4 <= cut < 8
    train.train(options(other, steps=8, every=0.0, resume=True))
    assert losses(other) == whole
    last = [x / "checkpoints/depth-0000008.pt" for x in (out, other)]
    first, second = map(tensors, last)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.slow
def test_a_resumed_run_draws_from_the_pairs_it_would_have_drawn_from(out, tmp_path_factory, monkeypatch):
    """Rendering goes on meanwhile: what is there when a run goes on is not what was there when it was stopped."""
    other = tmp_path_factory.mktemp("whole")
    shutil.copytree(out / "pool", other / "pool")

    class Stop(Exception):
        pass

    def average_then_stop(now, go_on=state.average):
        go_on(now)
        if now.step == 3:
            raise Stop

    ready = iter([3, 8, 8])  # pairs rendered: at the start, at the first checkpoint, at the end
    monkeypatch.setattr(loop, "pairs_ready", lambda pool: next(ready))
    train.train(options(other))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        ready = iter([3, 8])
        patch.setattr(state, "average", average_then_stop)
        train.train(options(out))
    ready = iter([5])
    train.train(options(out, resume=True))
    assert losses(out) == losses(other)


def test_rendering_waits_for_what_is_held_and_ends_with_training(tmp_path):
    pool = Pool(tmp_path / "pool.bin", (64, 64), 10)
    pool.hold(8)  # the newest eight before pair 8 may be drawn: 0 to 7
    assert pool.free(9) and not pool.free(10)
    pool.hold(10)
    assert pool.free(10) and pool.free(11) and not pool.free(12)
    with open(pool.path, "wb") as file:
        file.write(b"another size")
    pool.path.with_suffix(".count").write_bytes(bytes(8))
    with pytest.raises(UsageError, match="another size or number"):
        pool.open()


@pytest.mark.slow
def test_two_processes_learn_as_one(out, tmp_path_factory):
    other = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pair = [
        started(out, "steps=4, batch=4, precision='fp32'", RANK=str(k), LOCAL_RANK=str(k), **place) for k in range(2)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert ["told:" in words for words in said] == [True, False]  # one speaks for both
    (out / "pool").rename(other / "pool")
    train.train(options(other, steps=4, batch=4, precision="fp32"))
    for one, two in zip(losses(other), losses(out), strict=True):
        near = 2e-5 if one[1] < 2 else 5e-4  # at first Adam makes as much of rounding as of gradients that are as small
        assert one[:2] == two[:2] and one[2] == pytest.approx(two[2], abs=near)


def test_the_configuration_that_is_shipped_is_valid():
    quick = telling.checked(telling.configured(Path(__file__).parent.parent / "assets/quick.toml", Options()))
    assert quick.stages == ("depth",) and quick.init == "none"


def test_what_is_drawn_depends_on_the_step_alone(out):
    pool = sources.training_pool(options(out))
    draw_one = sources.drawing(options(out), "depth", pool)
    whole, ring = draw_one(3, range(4), 8).batch, pool.open()[0]
    ring[8:] = slanted_pair(99)  # rendered meanwhile
    halves = [draw_one(3, part, 8).batch for part in (range(0, 2), range(2, 4))]
    for name in ("a", "depth", "flow", "b_T_a"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(x, name) for x in halves]))
    assert not torch.equal(whole.a, draw_one(4, range(4), 8).batch.a)


def test_the_pool_keeps_what_may_be_drawn(tmp_path):
    pool = Pool(tmp_path / "pool.bin", SIZE, 10)
    ring, _ = pool.open()
    for k in range(17):
        ring[k % 10] = slanted_pair(0)
        ring[k % 10]["focal"] = 2.0**k  # pair k
    rngs = [np.random.default_rng(k) for k in range(60)]
    drawn = draw(pool, rngs, 15, SIZE).intrinsics.focal[:, 0]
    assert (
        pool.usable == 8 and 2.0**7 < 2.2 * float(drawn.min()) and float(drawn.max()) < 2.2 * 2.0**14
    )  # zoom scales them
    pool.hold(15)
    assert Pool(tmp_path / "pool.bin", SIZE, 10).held == 15


def test_a_lost_pool_begins_with_what_is_held(tmp_path):
    pool = Pool(tmp_path / "pool.bin", (64, 64), 10)
    pool.hold(9)
    fill(pool, 700_000, None, count=2)
    ring, counter = pool.open()
    again = Pool(tmp_path / "again.bin", (64, 64), 10)
    fill(again, 700_000, None, count=2)
    assert counter[0] == 2 and np.array_equal(ring["image"][1], again.open()[0]["image"][1])


def test_training_stops_at_the_first_value_that_is_not_finite(out):
    train.train(options(out, steps=2))
    good = state.checkpoints(options(out), "depth")[-1]
    before = good.read_bytes()
    Pool(out / "pool" / "train.bin", SIZE, 10).open()[0]["depth"] = np.nan
    with pytest.raises(GlvidError, match=rf"not finite at step 2 .*{good.name}"):
        train.train(options(out, steps=4, resume=True))
    assert good.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["cut", "nan", "optimiser", "other"])
def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_named(out, harm, monkeypatch):
    train.train(options(out, steps=2, every=0.0))
    first, last = state.checkpoints(options(out), "depth")
    content = weights.load_checkpoint(last)
    if harm == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    elif harm == "nan":
        next(iter(content["nets"].values())).fill_(np.nan)
        weights.save_checkpoint(content, last)
    elif harm == "optimiser":
        next(iter(content["optimiser"]["state"].values()))["exp_avg"].fill_(np.inf)
        weights.save_checkpoint(content, last)
    else:
        name = next(iter(content["nets"]))
        content["nets"][name] = content["nets"][name][:1]
        weights.save_checkpoint(content, last)
    with pytest.raises(ModelError, match=f"{last.name}.*last good one is .*{first.name}") as error:
        train.train(options(out, steps=4, resume=True))
    assert error.value.exit_code == 4
    last.unlink()
    train.train(options(out, steps=4, resume=True))
    assert [x[1] for x in losses(out)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_full_disk_is_found_before_the_first_step_and_survived_after(out, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch, pytest.raises(OutputError, match="needs about"):
        patch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
        train.train(options(out))
    assert not (out / "log.jsonl").exists()
    train.train(options(out, steps=2))
    kept = {p.name: p.read_bytes() for p in state.checkpoints(options(out), "depth")}

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    def no_copy(source, target):
        raise OSError(28, "No space left on device")

    for where, broken in (("torch.save", full), ("shutil.copyfile", no_copy)):
        with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
            patch.setattr(where, broken)
            patch.setattr(loop, "METRIC", {"depth": "steps"})  # so that every checkpoint is a best one
            patch.setattr(loop, "validated", lambda *a: {"steps": -1.0})
            train.train(options(out, steps=4, resume=True))
        for path in state.checkpoints(options(out), "depth"):
            if path.name not in kept:
                path.unlink()
    kept = {name: data for name, data in kept.items() if (out / "checkpoints" / name).exists()}
    assert {p.name: p.read_bytes() for p in (out / "checkpoints").glob("depth-0*")} == kept
    train.train(options(out, steps=4, resume=True))
    assert [x[1] for x in losses(out)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_run_killed_after_its_last_checkpoint_still_leaves_its_cards(out):
    folder = train.train(options(out, steps=2))
    file, card = folder / "depth-small.safetensors", folder / "depth-small.md"
    before, said = weights.load(file, "depth"), card.read_text()
    card.unlink()
    file.write_bytes(b"older")
    train.train(options(out, steps=2, resume=True))
    after = weights.load(file, "depth")
    assert all(torch.equal(a, b) for a, b in zip(before[0].parameters(), after[0].parameters(), strict=True))
    assert after[1]["trained"] == before[1]["trained"]
    # safetensors writes the entries of a header in any order, so the digest is another one
    assert card.read_text() == said.replace(before[1]["sha256"], after[1]["sha256"])


def test_a_card_says_how_its_network_was_made(out, tmp_path):
    (tmp_path / "kept out.txt").write_text("clips/test*\n")
    folder = train.train(options(out, steps=1, exclude=(f"@{tmp_path}/kept out.txt", "b.mp4")))
    said = (folder / "depth-small.md").read_text()
    assert "Kept out: `clips/test*`, `b.mp4`" in said
    line = next(line for line in said.splitlines() if line.startswith("glvid train"))
    words = shlex.split(line)
    assert words[words.index("--size") + 1] == "x".join(map(str, SIZE)) and words[words.index("--steps") + 1] == "1"
    given = [words[k + 1] for k, word in enumerate(words) if word == "--exclude"]
    assert given == [f"@{tmp_path}/kept out.txt", "b.mp4"]


@pytest.mark.slow
def test_stage_all_hands_each_stage_what_was_learned_before(out, tmp_path):
    walk = film(tmp_path / "films/walk", [(0, 3 * k) for k in range(12)])
    plan = options(out, stage="all", steps=2, batch=4, data=(walk.path.parent,), every=0.0)
    folder = train.train(plan)
    assert [x[:2] for x in losses(out)] == [(s, k) for s in ("flow", "depth", "joint") for k in range(2)]
    assert {p.stem for p in folder.glob("*.safetensors")} == {"depth-small", "flow-small", "camera-small"}
    assert "walk" in (folder / "depth-small.md").read_text()
    cameras = json.loads((out / "cameras.json").read_text())
    assert len(cameras) == 1 and 20 < next(iter(cameras.values())) < 400
    joint = [x for x in steps(out)[1] if x["stage"] == "joint"]
    assert joint[-1]["unlike"] > 0
    train.train(replace(plan, resume=True))  # nothing is left to do, and nothing is done
    assert len(losses(out)) == 6


def test_training_shows_pictures_where_tensorboard_is_there(out, tmp_path, monkeypatch):
    """A writer that only remembers stands in for TensorBoard's."""
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            told.append(("began", purge_step))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            told.append(("ended", 0))

        def add_scalar(self, name, value, step):
            told.append((name, value))

        def add_image(self, name, picture, step, dataformats):
            assert dataformats == "HWC" and picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 0
            told.append((name, picture.shape))

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    walk = film(tmp_path / "films/walk", [(0, 3 * k) for k in range(12)])
    train.train(options(out, stage="all", steps=1, batch=4, data=(walk.path.parent,)))
    shown = dict(told)
    assert shown["depth"] == (64, 3 * 96, 3) and shown["flow"] == (64, 3 * 96, 3)
    assert shown["window"][1] == 5 * 96 and shown["loss"] > 0 and shown["held/unlike"] > 0
    assert told[0][0] == "began" and told[-1][0] == "ended"


def windows_of_a_plane() -> torch.Tensor:
    """(1, 3, 3, H, W): a camera that moves on."""
    return torch.from_numpy(np.stack([slanted_pair(0)["image"][[0, 1, 0]]])).permute(0, 1, 4, 2, 3).float() / 255


@pytest.mark.parametrize("objective", ["glvid", "paper"])
def test_the_joint_stage_moves_every_network_and_the_lens(objective):
    torch.manual_seed(0)
    nets = torch.nn.ModuleDict({kind: build() for kind, build in SMALL.items()})
    lenses = Lenses(2)
    lens = lenses(torch.tensor([1]), torch.tensor([[960.0, 640.0]]), SIZE)
    assert float(lens.focal[0, 0].detach()) == pytest.approx(96 * np.exp(-0.22), rel=1e-5)
    loss, parts = joint_stage(nets, windows_of_a_plane(), lens, nets["depth"], OBJECTIVES[objective])
    loss.backward()
    ours = {"photometric", "structure", "epipolar", "focal"}
    assert torch.isfinite(loss) and ours <= parts.keys()
    assert ("prior_depth" in parts) == ("static_photometric" in parts) == (objective == "glvid")
    for kind, net in nets.items():
        assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) > 0, kind
    assert lenses.log_focal.grad[0] == 0 and lenses.log_focal.grad[1] != 0


def test_a_camera_at_rest_is_told_so():
    """The auto-mask hides every pixel of a still picture from depth, but not from motion."""
    torch.manual_seed(0)
    nets = torch.nn.ModuleDict({kind: build() for kind, build in SMALL.items()})
    still = windows_of_a_plane()[:, :1].expand(-1, 3, -1, -1, -1)
    lens = Lenses(1)(torch.tensor([0]), torch.tensor([[960.0, 640.0]]), SIZE)
    only = replace(LossWeights(**dict.fromkeys(LossWeights.__dataclass_fields__, 0.0)), static_photometric=1.0)
    loss, parts = joint_stage(nets, still, lens, nets["depth"], only)
    loss.backward()
    assert parts["static_photometric"] == 0 and parts["astray"] > 0

    def pulled(kind: str) -> float:
        grads = [p.grad for p in nets[kind].parameters() if p.grad is not None]
        return max((float(g.abs().max()) for g in grads), default=0.0)

    assert pulled("camera") > 0 and pulled("depth") == pulled("flow") == 0


def test_a_batch_of_windows_means_what_its_windows_mean():
    """So that processes which share a batch learn what one process would: masks differ from window to window."""
    torch.manual_seed(0)
    nets = torch.nn.ModuleDict({kind: build() for kind, build in SMALL.items()})
    first = windows_of_a_plane()
    both = torch.cat([first, first.flip(1) * 0.5 + 0.2 * torch.rand_like(first)])
    lens = Lenses(2)(torch.tensor([0, 1]), torch.tensor([[960.0, 640.0], [700.0, 640.0]]), SIZE)

    def loss(k: slice) -> torch.Tensor:
        one = Intrinsics(lens.focal[k], lens.center[k], SIZE)
        return joint_stage(nets, both[k], one, nets["depth"], LossWeights())[0].detach()

    alone = loss(slice(0, 1)), loss(slice(1, 2))
    assert abs(float(alone[0] - alone[1])) > 1e-3
    assert float(loss(slice(0, 2))) == pytest.approx(float(sum(alone)) / 2, abs=1e-4)  # minima and masks round


def test_the_paper_asks_moving_pixels_too():
    from glvid.losses import total
    from glvid.types import Pairs

    row = slanted_pair(1)
    images = torch.from_numpy(row["image"].copy()).permute(0, 3, 1, 2).float() / 255
    depth = torch.from_numpy(row["depth"].astype(np.float32))[:, None]
    flow = torch.from_numpy(row["flow"].astype(np.float32)).permute(0, 3, 1, 2)
    flow[0, :, 20:40, 30:60] += 3  # moves on its own
    moving = torch.zeros_like(depth)
    moving[0, :, 18:42, 28:62] = 1
    camera = Intrinsics(torch.tensor([80.0, 80.0]), torch.tensor([48.0, 32.0]), SIZE)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), flow[:1], flow[1:], torch.from_numpy(row["b_T_a"])[None])
    visible = torch.ones_like(depth[:1])
    seen = replace(loop_observe(images, pairs), visible=visible)
    masked, all_of_it = (
        total(images, depth, pairs, camera, moving, w, seen=seen)[1]["structure"]
        for w in (LossWeights(), replace(LossWeights(), masked=PAPER.masked))
    )
    assert all_of_it > 2 * masked


def loop_observe(images, pairs):
    from glvid.losses import observe

    return observe(images, pairs)


def test_unlikeness_is_lower_for_the_truth():
    class Told(torch.nn.Module):
        """A network that says what it was told."""

        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, a, b, start=None):
            return self.answer(a, b)

        def depth(self, images):
            return self.answer(images, None)

    row = slanted_pair(0)
    depth = torch.from_numpy(row["depth"].astype(np.float32))[[0, 1, 0], None]
    T = torch.from_numpy(row["b_T_a"])
    camera = Intrinsics(torch.tensor([[80.0, 80.0]]), torch.tensor([[48.0, 32.0]]), SIZE)
    flow = torch.zeros(4, 2, 64, 96)

    def told(scale: float) -> float:
        motion = torch.stack([T, torch.linalg.inv(T)])
        motion[:, :3, 3] *= scale
        lens = Intrinsics(camera.focal.expand(2, 2), camera.center.expand(2, 2), SIZE)
        nets = torch.nn.ModuleDict({
            "depth": Told(lambda a, b: depth), "flow": Told(lambda a, b: Matched([flow], flow[:, :1])),
            "camera": Told(lambda a, b: (motion, motion, lens)),
        })  # fmt: skip
        images = windows_of_a_plane()
        return float(unlikeness(predicted(nets, images, camera)[0], images))

    assert told(1.0) < 0.5 * told(0.2) and told(1.0) < 0.5 * told(-1.0)


def test_a_motion_that_follows_flow_is_not_astray():
    row = slanted_pair(0)
    depth = torch.from_numpy(row["depth"].astype(np.float32))[None, :, None]
    T = torch.from_numpy(row["b_T_a"])
    camera = Intrinsics(torch.tensor([[80.0, 80.0]]), torch.tensor([[48.0, 32.0]]), SIZE)
    there, back = T[None, None], torch.linalg.inv(T)[None, None]
    flow = rigid_flow(depth[:, :1], camera, there)[0]
    flow_back = rigid_flow(depth[:, 1:], camera, back)[0]

    def gone(motion, return_motion):
        outputs = Outputs(depth, flow, flow_back, motion, torch.zeros_like(depth), camera)
        return float(astray(outputs, return_motion))

    none = torch.eye(4)[None, None]
    assert gone(there, back) < 0.02  # the rounding of a length at 0
    assert min(gone(none, back), gone(there, none)) > 0.2 and gone(back, there) > gone(none, none)
    learned = there.clone().requires_grad_(True)
    astray(Outputs(depth, flow, flow_back, learned * 1.01, torch.zeros_like(depth), camera), back).backward()
    assert learned.grad.isfinite().all() and learned.grad.abs().max() > 0


@pytest.mark.parametrize("seed", range(6))
def test_augmented_truth_stays_true(seed):
    """Flow is still the flow of depth, motion and camera after crop, resize, time reversal and mirror."""
    item = augmented(np.random.default_rng(seed), slanted_pair(seed), (64, 64))
    batch = collate([item], (64, 64))
    flow, _ = rigid_flow(batch.depth, batch.intrinsics, batch.b_T_a)
    assert (flow - batch.flow).abs().max() < 0.05  # half floats, nearest lookup of a slanted plane
    assert batch.flow.abs().max() > 0.5


def test_what_is_validated_on_is_the_row_itself():
    row = slanted_pair(1)
    item = whole(row, row["visible"].shape[::-1])
    assert np.array_equal(item["a"], row["image"][0]) and np.array_equal(item["b"], row["image"][1])
    assert np.allclose(item["depth"], row["depth"][0]) and np.allclose(item["flow"], row["flow"][0])
    half = whole(row, (48, 32))
    assert np.allclose(half["focal"] / row["focal"], [48 / row["visible"].shape[1], 32 / row["visible"].shape[0]])


def test_mirroring_twice_changes_nothing():
    item = augmented(np.random.default_rng(3), slanted_pair(0), (64, 32))
    twice = mirrored(mirrored(item))
    for k, v in item.items():
        assert np.allclose(v, twice[k]), k


def test_gradients_of_a_batch_are_the_mean_of_those_of_its_halves():
    """So that processes may share it; of depth and of what is said of its error."""
    net, batch, found = DepthNet(DepthConfig(spread=True)), scene_batch(4), []
    for some in (slice(0, 4), slice(0, 2), slice(2, 4)):
        lens = batch.intrinsics
        part = {f.name: getattr(batch, f.name) for f in fields(batch)}
        part = {name: x[some] if torch.is_tensor(x) else x for name, x in part.items()}
        part["intrinsics"] = Intrinsics(lens.focal[some], lens.center[some], lens.size)
        net.zero_grad()
        supervised.weighted(supervised.depth_parts(net, Batch(**part))).backward()
        found.append({name: x.grad.clone() for name, x in net.named_parameters()})
    whole, *halves = found
    for name, x in whole.items():
        assert torch.allclose(x, (halves[0][name] + halves[1][name]) / 2, rtol=1e-3, atol=2e-6), name


def test_only_the_scale_part_of_the_depth_loss_pulls_on_the_scale():
    """Gradients by log depth add up to nothing over a picture, or training would drift to ever nearer depth."""
    g = torch.Generator().manual_seed(0)
    said = [torch.randn(2, 1, 32 >> k, 48 >> k, generator=g).requires_grad_() for k in range(4)]
    truth, sure = torch.randn(2, 1, 32, 48, generator=g).exp() * 8, torch.rand(2, 1, 32, 48, generator=g)
    for name, part in supervised.depth_loss([x.exp() for x in said], truth, sure).items():
        pulls = torch.autograd.grad(part, said, retain_graph=True, allow_unused=True)
        total = sum(p.sum() for p in pulls if p is not None).abs()
        felt = sum(p.abs().sum() for p in pulls if p is not None)
        assert felt > 0.01 and (total > 0.1 * felt) == (name == "scale"), name
        assert name == "scale" or total < 1e-4 * felt, name


def test_losses_are_zero_at_the_truth_and_grow():
    depth = torch.rand(2, 1, 32, 64) * 5 + 2
    pyramid = [1 / depth[..., :: 2**k, :: 2**k] for k in range(4)]
    everywhere = torch.ones_like(depth)
    exact = supervised.depth_loss(pyramid, depth, everywhere)
    assert all(float(v) < 1e-5 for v in exact.values())
    scaled = supervised.depth_loss([3 * d for d in pyramid], depth, everywhere)
    assert float(scaled["value"]) < 1e-5 and float(scaled["relative"]) < 1e-5 and float(scaled["slope"]) < 1e-4
    assert abs(float(scaled["scale"]) - np.log(3)) < 1e-4
    half = torch.cat([everywhere[..., :32], torch.zeros_like(everywhere[..., 32:])], -1)
    wrong = [torch.where(half[..., :: 2**k, :: 2**k] > 0, d, 5 * d) for k, d in enumerate(pyramid)]
    assert all(float(v) < 1e-5 for v in supervised.depth_loss(wrong, depth, half).values())  # unsure: no count
    bent = supervised.depth_loss([d**1.2 for d in pyramid], depth, everywhere)
    assert float(bent["value"]) > 0.02 and float(bent["slope"]) > 0.02


def scene_batch(count: int = 4) -> Batch:
    """Pictures of one scene as `augmented` crops them, of a pair drawn `count` times."""
    return collate([augmented(np.random.default_rng(k), slanted_pair(0), (64, 64)) for k in range(count)], (64, 64))


def test_pictures_of_one_clip_are_asked_for_one_scale():
    """By how far off their scales are, whatever they were cropped to: a crop of half the width shows all twice as large
    and is half as deep. Truth itself costs nothing, nor does any one factor."""
    batch = scene_batch()
    zoom = supervised.log_focal_of(batch)
    assert zoom.std() > 0.05
    true = zoom[:, None, None, None].exp() / batch.depth
    assert float(supervised.disagreement(true, batch, zoom)) < 1e-5
    assert float(supervised.disagreement(3 * true, batch, zoom)) < 1e-5
    off = torch.tensor([1.0, 1.4, 1.0, 1.0])[:, None, None, None]
    said = (off * true).requires_grad_()
    found = supervised.disagreement(said, batch, zoom)
    assert float(found.detach()) == pytest.approx(np.log(1.4) * 3 / 8, rel=1e-3)  # one of four
    found.backward()
    assert said.grad[1].sum() > 0 > said.grad[0].sum()


def test_neighbours_in_a_batch_of_lessons_are_of_one_clip():
    tables = [np.stack([slanted_pair(k)]) for k in range(5)]
    for k, table in enumerate(tables):
        table["focal"] = 100 * (k + 1)
    batch = sources.drawn(tables, [np.random.default_rng(k) for k in range(8)], (64, 64))
    which = (batch.intrinsics.focal[:, 0] / 100).log2()  # a crop zooms by up to 1.9
    found = [{k for k in range(5) if np.log2(k + 1) - 1e-3 <= w <= np.log2(k + 1) + 1} for w in which.tolist()]
    assert all(a & b for a, b in zip(found[::2], found[1::2], strict=True))
    assert len({min(f) for f in found}) > 1


def test_collages_of_any_softness_have_the_flow_of_their_pixels():
    """Enlarged or not: what is seen in both frames looks alike where flow says it went."""
    textures, off = photos(None)[:20], []
    for seed in range(12):
        batch = collate([sources.collage_item(textures, np.random.default_rng(seed), (128, 96))], (128, 96))
        there, inside = warp(batch.b, batch.flow)
        seen = batch.visible * inside
        off.append([float((seen * (x - batch.a).abs()).mean() / seen.mean()) for x in (there, batch.b)])
    moved, still = np.mean(off, 0)
    assert moved < 0.05 and moved < 0.8 * still  # what is left is exposure and noise of their own


def test_an_unknown_lens_teaches_nothing():
    batch = scene_batch()
    lens = replace(batch.intrinsics, focal=1.5 * batch.intrinsics.focal)
    half = replace(batch, known=torch.tensor([1.0, 0, 0, 1]))
    assert float(supervised.lens_parts(lens, batch)["focal"]) == pytest.approx(np.log(1.5), rel=1e-4)
    assert float(supervised.lens_parts(lens, half)["focal"]) == pytest.approx(np.log(1.5) / 2, rel=1e-4)
    learned = replace(lens, focal=lens.focal.clone().requires_grad_())
    supervised.lens_parts(learned, half)["focal"].backward()
    assert learned.focal.grad[1:3].abs().max() == 0 < learned.focal.grad[0].abs().min()


def test_real_clips_teach_the_lens_too(out, monkeypatch):
    """Stage camera learns focal length and centre from lessons, and nothing else there: their motion has no scale."""
    tables = [np.stack([slanted_pair(k) for k in range(8, 12)])]
    monkeypatch.setattr(loop, "found_data", lambda *_: sources.Data())
    monkeypatch.setattr(loop, "footing_of", lambda *_: sources.Footing((clip_of([0] * 9),), (clip_of([0] * 9),)))
    monkeypatch.setattr(loop, "lesson_tables", lambda *_: (tables, []))
    monkeypatch.setattr(loop, "sources_of", lambda *_: [])
    train.train(options(out, stage="camera", steps=12, data=(out,)))
    logged, _ = steps(out)
    real = [x for x in logged if x["kind"] == "lesson"]
    assert 0 < len(real) < 12
    assert all({"real_focal", "real_center"} == {name for name in x if name.startswith("real_")} for x in real)


def test_networks_can_start_from_an_encoder_that_has_seen_photos(tmp_path):
    """What the package ships becomes a folder to start from; another file is refused; lessons are not made by it."""
    their, net = {}, Lite()
    for name, value in lite_names(net.state_dict()):
        their[name] = value
    torch.save(their, tmp_path / "lite.pth")
    files = pretrained(tmp_path / "lite.pth", tmp_path / "start")
    assert [file.name for file in files] == [f"{kind}-small.safetensors" for kind in ("depth", "camera", "flow")]
    shipped, begun = (
        weights.load(x, "camera")[0] for x in ("camera-small", tmp_path / "start/camera-small.safetensors")
    )
    for part in ("mix.weight", "motion.0.bias"):
        assert torch.equal(shipped.get_parameter(part), begun.get_parameter(part))
    assert not torch.equal(shipped.lens[0].weight, begun.lens[0].weight)  # it reads another encoder
    licences = {weights.load(x, "camera")[1]["licence"] for x in ("camera-small", files[1])}
    assert len(licences) == 1  # what is taken over keeps its terms
    for kind in ("depth", "camera"):
        begun = sources.first_network(kind, tmp_path / "start")
        for name, value in net.state_dict().items():
            assert torch.allclose(begun.encoder.state_dict()[name], value, atol=2e-3), name
    assert sources.teachers("none") == sources.teachers(tmp_path / "start") == "shipped"
    assert sources.teachers("shipped") == "shipped"
    trained = DepthNet(DepthConfig(lite=True))
    weights.save(trained, tmp_path / "start" / "depth-small.safetensors", {"trained": {"steps": 10}})
    assert sources.teachers(tmp_path / "start") == tmp_path / "start"
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="no EfficientNet-Lite of"):
        pretrained(tmp_path / "other.pth", tmp_path / "no")


def test_a_larger_encoder_makes_a_start_for_the_base_network(tmp_path):
    net = Lite(2)
    torch.save(dict(lite_names(net.state_dict(), 2)), tmp_path / "lite.pth")
    pretrained(tmp_path / "lite.pth", tmp_path / "start")
    begun = sources.first_network("depth", tmp_path / "start")
    assert begun.config.grade == 2 and begun.config.channels == BASE
    assert torch.allclose(begun.encoder.rows[3][1].widen.conv.weight, net.rows[3][1].widen.conv.weight, atol=2e-3)
    camera, shipped = (
        weights.load(x, "camera")[0] for x in (tmp_path / "start/camera-small.safetensors", "camera-small")
    )
    assert all(torch.equal(x, camera.state_dict()[name]) for name, x in shipped.state_dict().items())


def lite_names(state: dict[str, torch.Tensor], grade: int = 0):
    """Our names and constants of `Lite` as the package's, with batch norms that do nothing else."""
    blocks = ((k, j) for k, row in enumerate(rows_of(grade)) for j in range(row.repeats))
    number = {block: n for n, block in enumerate(blocks)}
    for name, value in state.items():
        *where, what = name.removesuffix(".weight").rsplit(".", 1)
        part = where[0].split(".")
        if part[0] == "stem":
            conv, norm = "_conv_stem", "_bn0"
        else:
            block, layer = f"_blocks.{number[int(part[1]), int(part[2])]}.", part[3]
            conv, norm = {
                "widen": ("_expand_conv", "_bn0"),
                "filter": ("_depthwise_conv", "_bn1"),
                "narrow": ("_project_conv", "_bn2"),
            }[layer]
            conv, norm = block + conv, block + norm
        if what == "conv":
            yield f"{conv}.weight", value
        elif what == "gain":
            yield f"{norm}.weight", value
            yield f"{norm}.running_var", torch.full_like(value, 1 - 1e-3)
            yield f"{norm}.running_mean", torch.zeros_like(value)
        else:
            yield f"{norm}.bias", value


def test_schedule_warms_up_and_decays():
    rates = [state.schedule(k, 1000) for k in range(1000)]
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1, abs=0.02) and rates[-1] == pytest.approx(0.02, abs=1e-3)
    assert 80 < int(np.argmax(rates)) < 120


def test_shapes_are_multiples_of_32():
    assert sources.shapes((384, 224)) == [(384, 224), (384, 128), (320, 256), (256, 320)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "sleep"}, "no training stage"),
        ({"stage": "joint"}, "--data"),
        ({"size": (100, 64)}, "multiples of 32"),
        ({"steps": 0}, "--steps 0"),
        ({"objective": "mine"}, "glvid or paper"),
        ({"stage": "joint", "init": "none", "data": (Path("."),)}, "trained networks to start from"),
        ({"device": "cuda"}, "none on this machine"),
        ({"device": "toaster"}, "none on this machine"),
        ({"rate": 0.0}, "--rate 0.0: must be above 0"),
        ({"kind": "submarine"}, "--kind submarine: no kind of rendered world; choose handheld, driving"),
        ({"seed": -1}, "--seed -1"),
        ({"camera": 1.5}, "--camera 1.5: is a share"),
        ({"seed": 700_000}, "below 500000"),
        ({"precision": "fp64"}, "bf16 or fp32"),
        ({"textures": Path("nowhere")}, "no folder of photos"),
        ({"init": "nowhere"}, "neither shipped nor none"),
    ],
)
def test_what_a_user_can_get_wrong(out, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has what the others lack")
    with pytest.raises(UsageError, match=message):
        train.train(options(out, **changes))
    assert not (out / "checkpoints").exists()


def test_footage_that_is_not_there_or_rests(out, tmp_path):
    plan = options(out, stage="all", batch=4)
    with pytest.raises(UsageError, match="no folder at"):
        train.train(replace(plan, data=(tmp_path / "none",)))
    with pytest.raises(UsageError, match="no film left"):
        train.train(replace(plan, data=(out / "pool",)))
    film(tmp_path / "rest/tripod", [(0, 5)] * 6)
    with pytest.raises(UsageError, match="something moves"):
        train.train(replace(plan, data=(tmp_path / "rest",)))
    assert not (out / "log.jsonl").exists() and sources.found_data(options(tmp_path / "empty"), print) == sources.Data()


def test_films_are_decoded_only_for_those_who_learn_from_them(out, tmp_path):
    film(tmp_path / "films/pan", [(0, 5), (4, 5), (8, 5), (12, 5)])
    done = []
    plan = options(out, stage="flow", data=(tmp_path / "films",))
    assert sources.found_data(plan, print) == sources.Data() and not any(sources.cache_of(plan).glob("*"))
    plan = replace(plan, stage="depth")
    found = sources.found_data(plan, print, lambda *facts: done.append(facts))
    assert len(found.clips) == 1 and done == [("decoding", 0, 1, {})]


def test_a_second_run_is_not_mixed_with_the_first(out):
    train.train(options(out, steps=1))
    with pytest.raises(UsageError, match="--resume goes on with it"):
        train.train(options(out, steps=1))
    with pytest.raises(UsageError, match=r"another --seed \(0, not 5\)"):
        train.train(options(out, steps=2, seed=5, resume=True))
    train.train(options(out, steps=2, resume=True))
    assert len(losses(out)) == 2


def test_options_come_back_from_a_file(tmp_path):
    said = options(tmp_path, data=(Path("a"), Path("b c")), exclude=("x/*", "@list"), split="eigen", textures=Path("t"))
    file = tmp_path / "options.toml"
    file.write_text(telling.as_toml(said))
    assert train.configured(file, Options()) == said
    for wrong, message in (
        ("stages = 1", "knows no 'stages'"),
        ("steps = 'many'", "'steps' cannot be 'many'; its default is 20000"),
        ("steps = true", "'steps' cannot be True"),
        ("data = [1]", "'data' cannot be"),
        ("out = 3", "'out' cannot be"),
        ("size = [384]", "'size' cannot be"),
        ("split = 3", "'split' cannot be"),
        ("steps = ", "cannot read"),
        ("size = 'big'", "is no size"),
    ):
        file.write_text(wrong)
        with pytest.raises(UsageError, match=message):
            train.configured(file, Options())


def test_the_command_line_wins_over_the_file_and_a_run_goes_on_as_it_began(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(train, "train", lambda options, watcher: asked.append(options) or tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text('steps = 7\nbatch = 4\nsize = "96x64"\nexclude = ["a/*"]\n')
    line = ["train", "--data", "films", "--config", str(file), "--batch", "16", "-o", str(tmp_path / "out")]
    assert command([*line, "--stage", "depth"]) == 0 and capsys.readouterr().out.strip() == str(tmp_path)
    (first,) = asked
    assert (first.steps, first.batch, first.size, first.exclude) == (7, 16, (96, 64), ("a/*",))
    assert first.data == (Path("films"),) and first.stage == "depth" and first.out == tmp_path / "out"
    (tmp_path / "out").mkdir()
    (tmp_path / "out/options.toml").write_text(telling.as_toml(first))
    assert command(["train", "--resume", "-o", str(tmp_path / "out"), "--steps", "9"]) == 0
    assert asked[1] == replace(first, resume=True, steps=9)
    assert command(["train", "--size", "100x64", "--data", "x"]) == 0  # checked where it is used
    assert command(["train", "--size", "big", "--data", "x"]) == 2 and "is no size" in capsys.readouterr().err


def test_real_clips_teach_depth(out, monkeypatch):
    """Rows of real clips are drawn beside rendered ones, and those watched are measured but not learned from."""
    tables = [np.stack([slanted_pair(k) for k in range(8, 12)]), np.stack([slanted_pair(k) for k in range(12, 16)])]
    monkeypatch.setattr(loop, "found_data", lambda *_: sources.Data())
    monkeypatch.setattr(loop, "footing_of", lambda *_: sources.Footing((clip_of([0] * 9),), (clip_of([0] * 9),)))
    monkeypatch.setattr(loop, "lesson_tables", lambda *_: (tables[:1], tables[1:]))
    monkeypatch.setattr(loop, "sources_of", lambda *_: [])
    drawn, seen = sources.drawn, []
    monkeypatch.setattr(sources, "drawn", lambda rows, *rest: seen.append(rows) or drawn(rows, *rest))
    train.train(options(out, steps=12, data=(out,)))
    logged, held = steps(out)
    real = [x for x in logged if "real_value" in x]
    assert 0 < len(real) < 12 and all("scale" not in x for x in real)
    assert "abs_rel_real" in held[-1]
    assert seen and all(table is not tables[1] for drawn_from in seen for table in drawn_from)


def test_clips_that_teach_nothing_are_left_out(tmp_path, monkeypatch):
    """`lesson_tables` keeps clips whose depth flow determines, on their sides, and says what became of all."""
    sure = np.stack([slanted_pair(k) for k in range(2)])
    unsure = sure.copy()
    unsure["sure"] = round(255 * sources.GUESS)
    monkeypatch.setattr(
        sources,
        "taught",
        lambda clip, cache, *nets: ((unsure if clip.path.name == "a" else sure), [f"{cache.name} {clip.path.name}"]),
    )
    footing = sources.Footing(tuple(clip_of([0] * 9, name) for name in "abc"), (clip_of([0] * 9, "d"),))
    learned, watched = sources.lesson_tables(footing, options(tmp_path), "shipped", lambda sentence: None)
    assert len(learned) == 2 and len(watched) == 1
    assert (tmp_path / "clips.txt").read_text().splitlines() == ["learn a", "learn b", "learn c", "check d"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_however_many_processes_draw(workers):
    def draw(step):
        return sources.Draw("depth", batch=scene_batch(2), clips=torch.tensor([step, os.getpid()]))

    found = list(sources.ahead(draw, 3, 9, workers))
    assert [step for step, _ in found] == [int(x.clips[0]) for _, x in found] == list(range(3, 9))
    assert torch.equal(found[0][1].batch.a, scene_batch(2).a)
    who = {int(x.clips[1]) for _, x in found}
    assert who == {os.getpid()} if workers == 0 else len(who) == workers and os.getpid() not in who


def test_shadows_darken_both_pictures_alike_and_move_with_what_is_seen():
    grey = np.full((64, 96, 3), 200, np.uint8)
    for seed in range(8):
        a, b = shadowed(np.random.default_rng(seed), grey, grey, np.array([5.0, 3.0]))
        assert a.max() <= 200 and a.min() < 190, seed
        assert np.array_equal(a[:-3, :-5], b[3:, 5:]), seed
        assert (a[..., 2].astype(int) - a[..., 0] >= -1).all()  # bluer, not redder
    item = augmented(np.random.default_rng(1), slanted_pair(1), (64, 64), shadows=1.0)
    plain = augmented(np.random.default_rng(1), slanted_pair(1), (64, 64))
    assert np.array_equal(item["depth"], plain["depth"]) and not np.array_equal(item["a"], plain["a"])


def test_clips_of_which_hardly_anything_is_sure_are_drawn_less_often():
    sure, half, hardly = (np.zeros(5, row_type((32, 32))) for _ in range(3))
    sure["sure"], half["sure"], hardly["sure"] = 255, 128, 8
    odds = told([sure, half, hardly])
    assert odds.sum() == pytest.approx(1) and odds[0] == odds[1] > 8 * odds[2] > 0


def test_what_is_said_of_errors_is_best_at_the_expected_error():
    """Least loss where exp(log_spread) is the mean of the errors; flow and depth do not learn from it."""
    errors = torch.tensor([0.5, 1.0, 3.0, 1.5]).view(1, 1, 2, 2).requires_grad_()
    said = torch.zeros(1, 1, 1, 1, requires_grad=True)
    optimiser = torch.optim.SGD([said], 0.3)
    for _ in range(100):
        optimiser.zero_grad()
        supervised.spread_loss(said.expand(1, 1, 2, 2), errors, torch.ones(1, 1, 2, 2)).backward()
        optimiser.step()
    assert said.exp().item() == pytest.approx(1.5, rel=1e-3) and errors.grad is None
