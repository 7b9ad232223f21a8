"""CameraNet: two frames to relative motion, both ways, and the camera's intrinsics."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glvid.geometry import se3_exp
from glvid.networks.blocks import Stage, conv, norm, standardised
from glvid.types import Intrinsics


@dataclass(frozen=True)
class CameraConfig:
    """Channels at 1/4, 1/8, 1/16, 1/32, 1/64 of the size."""

    channels: tuple[int, ...] = (24, 48, 64, 96, 160)
    hidden: int = 128
    twist: tuple[float, float] = (0.2, 0.02)  # m and rad a unit of the head stands for: typical motion between frames
    focal: float = 0.8  # focal length over width of the untrained network


class CameraNet(nn.Module):
    """Motion of the camera between two frames, and its intrinsics (GLNet, section 3.1; Gordon et al. 2019, 3.4).

    Intrinsics: focal = softplus(.) * (W, H), centre = (. + 0.5) * (W, H). The motion is a twist, near none at first.
    """

    def __init__(self, config: CameraConfig | None = None):
        super().__init__()
        self.config = config = config or CameraConfig()
        c2, *rest = config.channels
        self.stem = conv(24, c2)
        self.stages = nn.Sequential(*(Stage(a, b, 1) for a, b in zip([c2, *rest], rest, strict=False)))
        self.last = nn.Sequential(norm(rest[-1]), nn.ReLU(), conv(rest[-1], config.hidden), nn.ReLU())
        grid = config.hidden * 3 * 3  # motion and field of view need to know where in the image things move
        self.motion = nn.Sequential(nn.Linear(grid, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 6))
        self.lens = nn.Sequential(nn.Linear(grid, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 4))
        start = float(torch.expm1(torch.tensor(config.focal)).log())  # softplus(start) = focal
        for head in (self.motion, self.lens):
            nn.init.normal_(head[-1].weight, std=1e-3)
            nn.init.zeros_(head[-1].bias)
        self.lens[-1].bias.data[:2] = start

    def features(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """What the pair shows at half size, on a 3x3 grid."""
        pair = F.avg_pool2d(torch.cat([standardised(a), standardised(b)], 1), 2)
        pair = F.pixel_unshuffle(pair, 2)
        return F.adaptive_avg_pool2d(self.last(self.stages(self.stem(pair))), 3).flatten(1)

    def forward(
        self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 4 4"], Float[Tensor, "B 4 4"], Intrinsics]:
        """b_T_a, a_T_b and one camera per pair, in px of the images; H, W multiples of 32."""
        seen = self.features(torch.cat([a, b]), torch.cat([b, a]))
        move, turn = self.motion(seen).float().split(3, -1)
        b_T_a, a_T_b = se3_exp(torch.cat([self.config.twist[0] * move, self.config.twist[1] * turn], -1)).chunk(2)
        lens = torch.stack(self.lens(seen).float().chunk(2)).mean(0)
        size = (a.shape[-1], a.shape[-2])
        scale = lens.new_tensor(size)
        return b_T_a, a_T_b, Intrinsics(F.softplus(lens[:, :2]) * scale, (lens[:, 2:] + 0.5) * scale, size)
