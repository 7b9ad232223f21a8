"""DepthNet: one frame to disparity, encoder-decoder with skips."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glvid.networks.blocks import Context, Residual, Stage, conv, coordinates, double, norm, standardised
from glvid.networks.lite import Lite, channels

START = 10.0  # depth that the untrained network says everywhere
SPREADS = (-5.0, 1.5)  # log of log depth: what the network can say of its error


@dataclass(frozen=True)
class DepthConfig:
    """Channels at 1/2, 1/4, 1/8, 1/16, 1/32 of the size; residual blocks from 1/4 on; range of depth; and more."""

    channels: tuple[int, ...] = (32, 48, 96, 144, 192)
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    near: float = 0.1
    far: float = 1000.0
    spread: bool = False  # does it say how far off it may be?
    lite: bool = False  # encoder: EfficientNet-Lite in place of residual blocks; `channels` are the decoder's then
    grade: int = 0  # which EfficientNet-Lite, 0 to 4


class Join(nn.Module):
    """One step up: what came from below, doubled, and the skip of this size."""

    def __init__(self, below: int, skip: int, outputs: int, blocks: int = 1):
        super().__init__()
        self.below, self.skip = conv(below, outputs, kernel=1), conv(skip, outputs, kernel=1)
        self.mix = nn.Sequential(norm(outputs), nn.ReLU(), conv(outputs, outputs))
        self.blocks = nn.Sequential(*(Residual(outputs) for _ in range(blocks)))

    def forward(self, below: Float[Tensor, "B C h w"], skip: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E H W"]:
        return self.blocks(self.mix(double(self.below(below)) + self.skip(skip)))


class Head(nn.Module):
    """Features to logits in float32, because bfloat16 has steps of 3 % at the size of the bias.

    large: it says the most, and the others only correct it.
    """

    def __init__(self, inputs: int, outputs: int, large: bool = False):
        super().__init__()
        self.large = large
        self.norm, self.conv = norm(inputs), conv(inputs, outputs)
        nn.init.normal_(self.conv.weight, std=1e-3)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N H W"]:
        x = F.relu(self.norm(x)).float()
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, self.conv.weight.float(), self.conv.bias.float(), padding=1)

    def settled(self, dtype: torch.dtype) -> "nn.Module":
        """The same, not to be trained; itself where what it says is large."""
        return self if self.large else SettledHead(self, dtype)


class SettledHead(nn.Module):
    """A `Head` of small corrections that will not be trained: in the arithmetic of the rest, but for the bias.

    Filters of zeros make it AT_ONCE: with fewer the library takes a way that is several times slower.
    """

    AT_ONCE = 16

    def __init__(self, head: Head, dtype: torch.dtype):
        super().__init__()
        self.norm, self.outputs, weight = head.norm, len(head.conv.weight), head.conv.weight.detach().to(dtype)
        more = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, self.AT_ONCE - self.outputs))
        self.register_buffer("weight", more.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", head.conv.bias.detach()[:, None, None].clone())

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N H W"]:
        x = F.relu(self.norm(x), inplace=True).to(self.weight.dtype)
        return F.conv2d(x, self.weight, padding=1)[:, : self.outputs].float() + self.bias


class DepthNet(nn.Module):
    """Depth of one frame (GLNet, section 3.1: encoder-decoder with sigmoid disparity at four scales).

    With near = 0.1 and far = 1000, usual depths lie where the sigmoid is an exponential: the last layer's output is the
    logarithm of disparity up to a constant, which is what a scale-invariant loss wants, yet disparity stays bounded.
    """

    def __init__(self, config: DepthConfig | None = None):
        super().__init__()
        self.config = config = config or DepthConfig()
        c2, c4, c8, c16, c32 = config.channels
        s2, s4, s8, s16, s32 = channels(config.grade) if config.lite else config.channels
        if config.lite:
            self.encoder, self.enter = Lite(config.grade), conv(s32, c32, kernel=1)
        else:
            self.stem = conv(12, c2)  # on 2x2 pixels at once
            steps = zip((c2, c4, c8, c16), (c4, c8, c16, c32), config.blocks, strict=True)
            self.stages = nn.ModuleList(Stage(a, b, n) for a, b, n in steps)
        self.place = conv(2, c32, kernel=1)
        self.context = nn.Sequential(Context(c32), Residual(c32))
        self.up16, self.up8, self.up4 = Join(c32, s16, c16), Join(c16, s8, c8), Join(c8, s4, c4, blocks=0)
        self.up2 = nn.Sequential(norm(c4), nn.ReLU(), conv(c4, c2))
        self.skip2, self.mix2 = conv(s2, c2, kernel=1), nn.Sequential(norm(c2), nn.ReLU(), conv(c2, c2))
        self.heads = nn.ModuleList(Head(c, n, k == 0) for k, (c, n) in enumerate(((c8, 1), (c4, 1), (c2, 1), (c2, 4))))
        self.spread = Head(c2, 1) if config.spread else None
        near, far = config.near, config.far
        share = torch.tensor((1 / START - 1 / far) / (1 / near - 1 / far))
        self.heads[0].conv.bias.data[:] = torch.logit(share)

    def encoded(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        """What the encoder sees, at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        if self.config.lite:
            *skips, x32 = self.encoder(images)
            return [*skips, self.enter(x32)]
        seen = [self.stem(F.pixel_unshuffle(standardised(images), 2))]
        for stage in self.stages:
            seen.append(stage(seen[-1]))
        return seen

    def features(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder features at 1/8, 1/4 and 1/2."""
        x2, x4, x8, x16, x32 = self.encoded(images)
        x32 = self.context(x32 + self.place(coordinates(x32)))
        y8 = self.up8(self.up16(x32, x16), x8)
        y4 = self.up4(y8, x4)
        return y8, y4, self.mix2(double(self.up2(y4)) + self.skip2(x2))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B 1 _h _w"]]:
        """Disparity (1 / depth, within 1 / far .. 1 / near) at full, 1/2, 1/4 and 1/8 size; H, W multiples of 32."""
        return self.look(images)[0]

    def look(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[list[Float[Tensor, "B 1 _h _w"]], Float[Tensor, "B 1 H W"] | None]:
        """Disparities as `forward` gives them, and the log of how far log depth is expected to be off, up to the
        picture's scale; None for networks that do not say."""
        y8, y4, y2 = self.features(images)
        l8 = self.heads[0](y8)
        l4 = double(l8) + self.heads[1](y4)
        l2 = double(l4) + self.heads[2](y2)
        l1 = double(l2) + F.pixel_shuffle(self.heads[3](y2), 2)
        near, far = self.config.near, self.config.far
        spread = None if self.spread is None else double(self.spread(y2)).clamp(*SPREADS)
        return [1 / far + (1 / near - 1 / far) * torch.sigmoid(x) for x in (l1, l2, l4, l8)], spread

    def depth(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Depth z > 0 at full size, up to scale; images 0..1, H and W multiples of 32."""
        return self.estimate(images)[0]

    def estimate(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"] | None]:
        """Depth, and how far off its log is expected to be (None for networks that do not say)."""
        disparities, log_spread = self.look(images)
        return 1 / disparities[0], None if log_spread is None else log_spread.float().exp()
