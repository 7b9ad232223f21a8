"""What is shipped in models/: every file is in the index, matches it, loads, says its licence, and has a card."""

import pytest
import torch

from glvid import weights

NAMES = sorted(weights.index())


def test_index_and_folder_agree():
    files = {p.stem: p.name for p in weights.folder().glob("*.safetensors")}
    assert {name: entry["file"] for name, entry in weights.index().items()} == files
    assert {*weights.DEFAULTS.values(), weights.BASE, "depth-free", "camera-free"} <= set(files)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_load_and_answer(name):
    entry = weights.index()[name]
    kind = entry["kind"]
    net, info = weights.load(name, kind)
    assert info["sha256"] == entry["sha256"] and info["licence"] == entry["licence"] != ""
    assert info["trained"]["steps"] > 0
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        out = net.depth(image) if kind == "depth" else net(image, image)
        out = out.flow if kind == "flow" else out[0]
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_a_card_with_licence_and_checksum_of_its_data(name):
    card, entry = (weights.folder() / f"{name}.md").read_text(), weights.index()[name]
    for word in ("## Licence", "## Trained on", "## Measured", entry["licence"], entry["sha256"]):
        assert word in card, word


def test_models_stay_small():
    """Together below 80 MB, each below 16 MiB."""
    sizes = [p.stat().st_size for p in weights.folder().glob("*.safetensors")]
    assert sum(sizes) < 80e6 and max(sizes) < 16 * 2**20
