"""CameraNet: two frames to relative motion, both ways, and the camera's intrinsics."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glvid.geometry import se3_exp
from glvid.networks.blocks import Residual, Stage, conv, correlation, norm, standardised
from glvid.networks.lite import Lite, channels
from glvid.types import Intrinsics


@dataclass(frozen=True)
class CameraConfig:
    """Channels of each frame at 1/4 of the size; of the pair at 1/4, 1/8, 1/16, 1/32; what a head's unit stands for."""

    frame: int = 32
    pair: tuple[int, int, int, int] = (32, 48, 64, 96)
    radius: int = 4  # matches searched this far, in px at 1/4 of the size
    hidden: int = 128
    twist: tuple[float, float] = (0.2, 0.02)  # m and rad a unit of the head stands for: typical motion between frames
    focal: float = 0.8  # focal length over width of the untrained network
    lite: bool = False  # does EfficientNet-Lite0 look at each frame too? What things are tells the field of view


def mean_shift(cost: Float[Tensor, "B N H W"], radius: int) -> Float[Tensor, "B 2 H W"]:
    """Expected (x, y) shift, in units of `radius`, under the softmax of a cost volume of `correlation`."""
    steps = torch.linspace(-1, 1, 2 * radius + 1, device=cost.device)
    shifts = torch.cartesian_prod(steps, steps).flip(1)  # rows first: y is the slow one
    return torch.einsum("bnhw,nc->bchw", cost.float().softmax(1), shifts)


class CameraNet(nn.Module):
    """Motion of the camera between two frames, and its intrinsics (GLNet, section 3.1; Gordon et al. 2019, 3.4).

    Intrinsics: focal = softplus(.) * (W, H), centre = (. + 0.5) * (W, H). The motion is a twist, near none at first.
    The network first matches every place with its surroundings in the other frame, and motion is read from that; two
    stacked images would leave matching to be learned, and 700 steps did not learn it.
    """

    def __init__(self, config: CameraConfig | None = None):
        super().__init__()
        self.config = config = config or CameraConfig()
        c, (p4, p8, p16, p32) = config.frame, config.pair
        self.stem = nn.Sequential(conv(12, c), Residual(c))
        self.match = nn.Sequential(norm(c), conv(c, 32, kernel=1))
        self.mix = conv((2 * config.radius + 1) ** 2 + 2 + c, p4)
        self.rest = nn.Sequential(Stage(p4, p8, 1), Stage(p8, p16, 1), Stage(p16, p32, 1), norm(p32))
        self.last = nn.Sequential(nn.ReLU(), conv(p32, config.hidden), nn.ReLU())
        grid = (config.hidden + 2) * 3 * 3  # motion and field of view need to know where in the image things move
        self.motion = nn.Sequential(nn.Linear(grid, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 6))
        self.encoder, self.enter = None, None
        if config.lite:
            self.encoder, self.enter = Lite(), conv(channels(0)[-1], config.hidden, kernel=1)
        wide = grid + config.hidden * 3 * 3 * config.lite
        self.lens = nn.Sequential(nn.Linear(wide, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 4))
        for head in (self.motion, self.lens):
            nn.init.normal_(head[-1].weight, std=1e-3)
            nn.init.zeros_(head[-1].bias)
        self.lens[-1].bias.data[:2] = torch.expm1(torch.tensor(config.focal)).log()  # softplus gives it back

    def look(
        self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "two_B 2 h w"], Float[Tensor, "two_B C"]]:
        """Matches at 1/4 of the size, in px of the images, and what the pair shows on a 3x3 grid: of a, then of b."""
        both = F.avg_pool2d(torch.cat([a, b]), 2)
        x = self.stem(F.pixel_unshuffle(standardised(both), 2))
        y = self.match(x)
        other = torch.cat(y.chunk(2)[::-1])
        cost = 4 * correlation(y, other, self.config.radius)
        shift = mean_shift(cost, self.config.radius)
        seen = self.last(self.rest(self.mix(torch.cat([cost, shift, x], 1))))
        fields = (seen, shift) if self.encoder is None else (seen, shift, self.enter(self.encoder(both)[-1]))
        grids = [F.adaptive_avg_pool2d(field.float(), 3) for field in fields]
        return 4 * self.config.radius * shift, torch.cat(grids, 1).flatten(1)

    def answer(
        self, seen: Float[Tensor, "two_B C"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "B 4 4"], Float[Tensor, "B 4 4"], Intrinsics]:
        """Motion both ways and the camera, from what `look` saw."""
        move, turn = self.motion(seen[:, : self.motion[0].in_features]).float().split(3, -1)
        b_T_a, a_T_b = se3_exp(torch.cat([self.config.twist[0] * move, self.config.twist[1] * turn], -1)).chunk(2)
        lens = torch.stack(self.lens(seen).float().chunk(2)).mean(0)
        scale = lens.new_tensor(size)
        return b_T_a, a_T_b, Intrinsics(F.softplus(lens[:, :2]) * scale, (lens[:, 2:] + 0.5) * scale, size)

    def forward(
        self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 4 4"], Float[Tensor, "B 4 4"], Intrinsics]:
        """b_T_a, a_T_b and one camera per pair, in px of the images; H, W multiples of 32."""
        return self.answer(self.look(a, b)[1], (a.shape[-1], a.shape[-2]))
