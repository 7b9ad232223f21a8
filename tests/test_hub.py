"""Depth models of the hub: small ones made on the spot, saved and loaded; and one that knows a corrupted truth."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from glvid.errors import ModelError
from glvid.inference import InferOptions, run
from glvid.networks import hub
from glvid.results import open_run
from glvid.synthetic import SKY, scene

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Depth-Anything-class model of random weights in a folder."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8, depth_estimation_type="relative",
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    described = {
        "size": {"height": 56, "width": 56},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    return folder


def copied(saved, to, change=None):
    """The model elsewhere, its configuration changed."""
    to.mkdir()
    for file in saved.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    if change:
        config = json.loads((to / "config.json").read_text()) | change
        (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_folder_is_loaded_with_its_own_preprocessing(saved):
    net, facts = hub.load(str(saved))
    assert net.relative and net.images == hub.Preprocessing((56, 56), 14, True, (0.5,) * 3, (0.25,) * 3)
    assert facts["licence"] == "apache-2.0" and len(facts["sha256"]) == 64 and facts["name"] == f"hf:{saved}"
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        depth = net.depth(images)
        assert depth.shape == (2, 1, 64, 96) and (depth > 0).all() and torch.isfinite(depth).all()
        assert torch.allclose(net.depth(images[1:]), depth[1:], rtol=1e-3)


def test_the_model_gets_what_its_own_processor_would_give(saved):
    """Size, mean and spread as transformers' processor makes them of the same picture."""
    net, seen = hub.load(str(saved))[0], {}
    net.model = SimpleModel(lambda pixel_values: seen.update(x=pixel_values) or torch.ones(len(pixel_values), 8, 8))
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8), (80, 60))
    net.depth(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    processor = transformers.DPTImageProcessor.from_pretrained(saved)
    wanted = processor(picture, return_tensors="pt").pixel_values
    assert seen["x"].shape == wanted.shape and (seen["x"] - wanted).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("size", "wanted"), [((384, 224), (518, 308)), ((640, 480), (686, 518)), ((1280, 720), (924, 518))]
)
def test_sizes_keep_the_aspect(size, wanted):
    assert hub.preprocessing({}).size(size) == wanted


def test_a_name_can_say_that_a_model_is_metric(saved):
    relative, metric = hub.load(f"hf:{saved}@relative")[0], hub.load(f"hf:{saved}@metric")[0]
    assert relative.relative and not metric.relative
    x = 1 + torch.rand(1, 56, 56)
    for net in (relative, metric):
        net.model = SimpleModel(lambda pixel_values: x)
    images = torch.rand(1, 3, 56, 56)
    assert torch.allclose(metric.depth(images)[:, 0], x)
    assert torch.allclose(relative.depth(images)[:, 0], 1 / (x / x.median() + hub.SHIFT))


def test_what_is_no_depth_model_is_refused(saved, tmp_path):
    unsaid = copied(saved, tmp_path / "unsaid", {"depth_estimation_type": None, "model_type": "new"})
    other = copied(saved, tmp_path / "other", {"model_type": "bert", "architectures": ["BertModel"]})
    pickled = copied(saved, tmp_path / "pickled")
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    for name, words in (
        (unsaid, "@metric"), (f"{other}@metric", "not a depth model"), (pickled, "cannot load its weights"),
        (tmp_path / "empty", "no config.json"), (f"hf:{saved}@funny", "none of metric, relative"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            hub.load(str(name))


def test_without_a_network_or_the_extra_it_says_so(saved, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="network"):
        hub.load("hf:nobody/no-such-model")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ModelError, match=r"glvid\[hub\]"):
        hub.load(str(saved))


class SimpleModel(torch.nn.Module):
    """A function as a model of transformers."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, pixel_values):
        return SimpleNamespace(predicted_depth=self.said(pixel_values))


@pytest.fixture(scope="module")
def truth():
    return scene(920_031, "handheld", frames=10, size=(192, 128))


@pytest.fixture
def stood_in(truth, tmp_path, monkeypatch):
    """Puts a model that knows every frame's true depth, and says `of` it, in the hub's place; runs `infer`."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for k, image in enumerate(truth.images):
        bgr = (image.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f"{k:03d}.png"), bgr)
    small = torch.nn.functional.interpolate(truth.images, (16, 24), mode="area")
    facts = {"name": "hf:stand-in", "sha256": "0" * 64, "licence": "mit"}

    def infer(of, relative, count=10, **options):
        for path in sorted(folder.iterdir())[count:]:
            path.unlink()

        def said(pixel_values):
            seen = torch.nn.functional.interpolate(pixel_values, (16, 24), mode="area")
            at = [(small - x).abs().mean((1, 2, 3)).argmin() for x in seen]
            return of(truth.depth[torch.stack(at), 0])

        images = hub.Preprocessing((192, 128), 2, False, (0.0,) * 3, (1.0,) * 3)
        net = hub.HubDepth(SimpleModel(said), images, relative)
        monkeypatch.setattr(hub, "load", lambda name, device: (net, facts))
        chosen = InferOptions(depth_model="hf:stand-in", refine="none", precision="fp32", **options)
        info = run(folder, tmp_path / "out", chosen)
        assert info["models"]["depth"] == facts
        return info, open_run(tmp_path / "out"), net

    return infer


def test_infer_with_a_relative_model_ends_nearer_the_truth_than_it_says(truth, stood_in):
    """True inverse depth, stretched and shifted: the clip tells the shift."""

    def inverse(depth):
        return 40 * (1 / depth + 0.6 * (1 / depth).median())  # far from what is assumed at first

    info, clip, net = stood_in(inverse, relative=True)
    assert info["warnings"] == [] or not any("hardly changes place" in w for w in info["warnings"])
    assert info["depth"]["unit"] == "scene"
    with torch.inference_mode():
        before = far_off(net.depth(truth.images)[:, 0].numpy(), truth)
    after = far_off([clip.depth(row) for row in clip.rows], truth)
    assert after < 0.4 * before


def test_infer_with_a_metric_model_is_in_metres(truth, stood_in):
    """Depth, path and cloud: the model's metres, by the median over the clip."""
    info, clip, _ = stood_in(lambda depth: depth, relative=False)
    assert info["depth"]["unit"] == "m" and "hf:stand-in, metric" in info["depth"]["scale_source"]
    ratio = [np.nanmedian(clip.depth(row) / t) for row, t in zip(clip.rows, truth.depth[:, 0].numpy(), strict=True)]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    true = truth.world_T_cam[:, :3, 3].numpy()
    ours = clip.trajectory().world_T_cam[:, :3, 3]
    lengths = [np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in (ours, true)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.1)


def test_one_picture_by_a_metric_model_is_in_metres_too(truth, stood_in):
    info, clip, _ = stood_in(lambda depth: depth, relative=False, count=1)
    assert info["depth"]["unit"] == "m" and clip.trajectory().unit == "m"
    assert np.nanmedian(clip.depth(clip.rows[0]) / truth.depth[0, 0].numpy()) == pytest.approx(1, abs=0.03)


def test_what_was_measured_counts_for_more_than_a_metric_model(stood_in):
    info, clip, _ = stood_in(lambda depth: depth, relative=False, scale_from="distance=0:96,64:30")
    (fx, fy), (cx, cy) = clip.intrinsics.focal.tolist(), clip.intrinsics.center.tolist()
    ray = np.linalg.norm([(96 - cx) / fx, (64 - cy) / fy, 1])
    assert np.median(clip.depth(clip.rows[0])[62:67, 94:99]) * ray == pytest.approx(30, rel=1e-3)
    assert info["depth"]["scale_source"].startswith("distance 30 m")


def far_off(depths, truth):
    """Abs Rel after one median scale per frame."""
    errors = []
    for d, t in zip(depths, truth.depth[:, 0].numpy(), strict=True):
        ok = (t < SKY / 2) & np.isfinite(d)
        errors.append(np.mean(np.abs(d[ok] * np.median(t[ok] / d[ok]) - t[ok]) / t[ok]))
    return float(np.mean(errors))


def test_processors_that_say_nothing_do_what_they_do_in_transformers():
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8), (100, 70))
    for kind in ("DPTImageProcessor", "GLPNImageProcessor"):  # ZoeDepth's adds a border, which we do not
        wanted = getattr(transformers, kind)()(picture, return_tensors="pt").pixel_values
        seen = {}
        net = hub.HubDepth(
            SimpleModel(lambda pixel_values, seen=seen: seen.update(x=pixel_values) or torch.ones(1, 8, 8)),
            hub.preprocessing({"image_processor_type": kind}), relative=False,
        )  # fmt: skip
        net.depth(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
        assert seen["x"].shape == wanted.shape, kind
        assert (seen["x"] - wanted).abs().mean() < 0.03, kind


def test_old_configurations_and_odd_models(saved, tmp_path):
    old, odd = copied(saved, tmp_path / "old"), copied(saved, tmp_path / "odd", {"model_type": "depth_pro"})
    config = json.loads((old / "config.json").read_text())
    del config["depth_estimation_type"]
    (old / "config.json").write_text(json.dumps(config))
    assert hub.load(str(old))[0].relative
    with pytest.raises(ModelError, match="depth_pro"):
        hub.load(str(odd))
    assert hub.named(f"{saved}@metric") and hub.parted(f"{saved}@metric") == (str(saved), "metric")
    at = copied(saved, tmp_path / "v2@home")
    assert hub.named(str(at)) and hub.parted(str(at)) == (str(at), "") and hub.load(str(at))[0].relative


def test_what_was_fetched_once_works_offline(saved, monkeypatch):
    """Of files that the model does not have, the cache knows nothing."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def cached(source, file):
        if (saved / file).is_file():
            return str(saved / file)
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    assert hub.weight_files("someone/tiny", "hf:someone/tiny") == [saved / "model.safetensors"]
    assert hub.licence("someone/tiny", "hf:someone/tiny") == "apache-2.0"
    with pytest.raises(ModelError, match="not on this machine"):
        hub._path("someone/tiny", "other.safetensors", "hf:someone/tiny", needed=True)
