"""Weight files: round trip, and everything that must be refused."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from glvid import weights
from glvid.errors import ModelError, OutputError
from glvid.networks import CameraNet, DepthConfig, DepthNet

SMALL = DepthConfig(channels=(16, 16, 16, 16, 16), blocks=(1, 1, 1, 1), far=500.0)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return DepthNet(SMALL)


@pytest.fixture
def path(net, tmp_path):
    weights.save(net, tmp_path / "small.safetensors", {"trained": {"steps": 3}})
    return tmp_path / "small.safetensors"


def rewritten(path, change, **head):
    """The file with its tensors changed and its head updated."""
    with weights.safe_open(str(path), "pt") as file:
        info = json.loads(file.metadata()["glvid"]) | head
    state = load_file(path)
    change(state)
    save_file(state, path, {"glvid": json.dumps(info)})
    return path


def test_round_trip_keeps_architecture_values_and_facts(net, path):
    loaded, info = weights.load(path, "depth")
    assert loaded.config == SMALL and not loaded.training
    for k, v in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[k], v.half().float()), k
    assert info["name"] == "small" and info["kind"] == "depth" and info["licence"] == "Apache-2.0"
    assert info["sha256"] == weights.sha256(path) and info["trained"] == {"steps": 3}


def test_full_precision_round_trip_is_exact(net, tmp_path):
    weights.save(net, tmp_path / "a.safetensors", half=False)
    loaded, _ = weights.load(tmp_path / "a.safetensors", "depth")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())


def test_a_missing_and_an_unknown_name():
    with pytest.raises(ModelError, match="no weight file at"):
        weights.load("nowhere/x.safetensors", "depth")
    with pytest.raises(ModelError, match="no model called 'depth-giant'.*depth-small"):
        weights.load("depth-giant", "depth")


def test_networks_that_go_together(monkeypatch):
    free = weights.together("depth-free", "cpu")
    assert {weights.index()[name]["licence"].split(" (")[0] for name in free.values()} == {"free for any use"}
    assert weights.together(None, "cpu") == weights.DEFAULTS
    monkeypatch.setattr(weights, "index", lambda: {"depth-base": {}})
    assert weights.together(None, "cuda:1") == weights.DEFAULTS | {"depth": "depth-base"}
    assert weights.together("depth-small", "cuda") == weights.DEFAULTS
    monkeypatch.setattr(weights, "index", dict)
    assert weights.together(None, "cuda") == weights.DEFAULTS  # where it is not installed


def test_the_wrong_kind(tmp_path):
    weights.save(CameraNet(), tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="holds a camera network where a depth network is needed"):
        weights.load(tmp_path / "c.safetensors", "depth")


def test_missing_and_unexpected_tensors_name_three(path):
    names = sorted(load_file(path))[:5]
    rewritten(path, lambda s: [s.pop(k) for k in names])
    with pytest.raises(ModelError, match="lacks 5 tensors: " + ", ".join(names[:3])):
        weights.load(path, "depth")


def test_unexpected_tensors(path):
    rewritten(path, lambda s: s.update(extra=torch.zeros(1)))
    with pytest.raises(ModelError, match="unexpected 1 tensors: extra"):
        weights.load(path, "depth")


def test_another_shape(path):
    rewritten(path, lambda s: s.update({"stem.bias": torch.zeros(3)}))
    with pytest.raises(ModelError, match="another shape: stem.bias"):
        weights.load(path, "depth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(path, value):
    rewritten(path, lambda s: s["stem.bias"].fill_(value))
    with pytest.raises(ModelError, match="not finite: stem.bias"):
        weights.load(path, "depth")


def test_saving_refuses_what_is_not_finite_and_leaves_nothing(net, tmp_path):
    net.stem.bias.data[0] = 1e6  # beyond float16
    with pytest.raises(ModelError, match="not finite"):
        weights.save(net, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_unknown_config_field(path):
    rewritten(path, lambda s: None, config={"wings": 2})
    with pytest.raises(ModelError, match="does not know"):
        weights.load(path, "depth")


def test_foreign_safetensors(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="not written by glvid"):
        weights.load(tmp_path / "x.safetensors", "depth")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        (pickle.dumps({"x": 1}), "pickle"),
        (b"", "cannot read"),
        (b"\x00" * 100, "cannot read"),
    ],
)
def test_files_that_only_pretend(tmp_path, content, why):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=why) as caught:
        weights.load(tmp_path / "x.safetensors", "depth")
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_a_file_cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot read"):
        weights.load(path, "depth")


class Bomb:
    def __reduce__(self):
        return (open, ("/nonexistent/bomb", "w"))


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.PTH", "x.ckpt", "x.safetensors", "x.weights"])
def test_a_pickle_is_refused_under_any_name(tmp_path, name):
    """For inference, of tensors or of code alike, and before it is unpickled."""
    for content in (Bomb(), torch.zeros(1)):
        torch.save({"state": content}, tmp_path / name)
        with pytest.raises(ModelError, match="pickle, which could run code.*give safetensors"):
            weights.load(tmp_path / name, "depth")


def test_a_pickle_is_not_even_opened(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"whatever")
    monkeypatch.setattr(weights, "sha256", lambda path: pytest.fail("was opened"))
    with pytest.raises(ModelError, match="was not opened"):
        weights.load(tmp_path / "x.pth", "depth")


def test_a_checkpoint_of_training_holds_tensors_alone(tmp_path):
    weights.save_checkpoint({"step": 3, "state": torch.ones(2)}, tmp_path / "x.pt")
    assert weights.load_checkpoint(tmp_path / "x.pt")["step"] == 3
    torch.save({"state": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="could run code"):
        weights.load_checkpoint(tmp_path / "x.pt")


def test_a_head_that_says_little(path):
    """No licence, no list of layers, whole numbers in place of tensors: no such file ends in a traceback."""
    rewritten(path, lambda s: None, licence="CC0")
    assert weights.load(path, "depth")[1]["licence"] == "CC0"
    state = load_file(path)
    save_file(
        state, path, {"glvid": json.dumps({"kind": "depth", "config": {"channels": [16] * 5, "blocks": [1] * 4}})}
    )
    assert weights.load(path, "depth")[1]["licence"] == "not stated"
    save_file(state, path, {"glvid": json.dumps({"kind": "depth", "config": [1]})})
    with pytest.raises(ModelError, match="does not know"):
        weights.load(path, "depth")
    save_file(state, path, {"glvid": "[]"})
    with pytest.raises(ModelError, match="not what glvid writes"):
        weights.load(path, "depth")


def test_a_shipped_file_that_was_changed(path, tmp_path, monkeypatch):
    weights.write_index(tmp_path)
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    assert weights.load("small", "depth")[1]["name"] == "small"
    rewritten(path, lambda s: s["stem.bias"].add_(1))
    with pytest.raises(ModelError, match="damaged"):
        weights.load("small", "depth")
    path.unlink()
    with pytest.raises(ModelError, match="is missing"):
        weights.load("small", "depth")


def test_a_missing_index(tmp_path):
    with pytest.raises(ModelError, match="no list of models"):
        weights.index(tmp_path)


def test_nowhere_to_write(net, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="x.safetensors: cannot be written"):
        weights.save(net, tmp_path / "file" / "x.safetensors")


def test_no_length_of_the_head_is_taken_for_a_pickle(tmp_path):
    """A safetensors file begins with the length of its head; one of 0x..80 bytes begins like a pickle."""
    net = DepthNet(DepthConfig(channels=(8, 8, 8, 8, 8)))
    path = tmp_path / "net.safetensors"
    for length in range(0, 256, 8):  # heads are padded to 8 bytes
        weights.save(net, path, {"note": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    weights.load(path, "depth")
