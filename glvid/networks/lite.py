"""EfficientNet-Lite without its classifier: an encoder that has seen a million photos before it learns depth."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STEM = 32  # channels of the first layer
EPSILON = 1e-3  # of the batch norms it was trained with
SINGLE = ("cpu",)  # devices on which the gradient of depthwise filters takes 3 to 7 times longer in bfloat16


@dataclass(frozen=True)
class Row:
    """`repeats` blocks of one kind (Tan and Le 2019, table 1): width inside, kernel, channels, stride of the first."""

    repeats: int
    expand: int
    kernel: int
    channels: int
    stride: int


ROWS = (
    Row(1, 1, 3, 16, 1),  # at 1/2
    Row(2, 6, 3, 24, 2),  # at 1/4
    Row(2, 6, 5, 40, 2),  # at 1/8
    Row(3, 6, 3, 80, 2),  # at 1/16
    Row(3, 6, 5, 112, 1),
    Row(4, 6, 5, 192, 2),  # at 1/32
    Row(1, 6, 3, 320, 1),
)
TAPS = (0, 1, 2, 4, 6)  # rows whose output is the last of its size
GRADES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # Lite0 to Lite4: how wide and deep, of ROWS


def rows(grade: int) -> tuple[Row, ...]:
    """Rows of EfficientNet-Lite `grade`: channels in multiples of 8, nearest; the first and the last stay one block."""
    wide, deep = GRADES[grade]
    scaled = [replace(row, channels=eights(wide * row.channels)) for row in ROWS]
    return scaled[0], *(replace(row, repeats=math.ceil(deep * row.repeats)) for row in scaled[1:-1]), scaled[-1]


def eights(width: float) -> int:
    """The multiple of 8 nearest to a number of channels, no less than nine tenths of it."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


def channels(grade: int) -> tuple[int, ...]:
    """Channels at 1/2, 1/4, 1/8, 1/16, 1/32."""
    found = rows(grade)
    return tuple(found[k].channels for k in TAPS)


class Layer(nn.Module):
    """Convolution, then a gain and an offset for every channel: a batch norm whose statistics have become constants.

    Pads as TensorFlow does ("same"): with stride 2, more on the right and below.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, bent: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, bias=False, groups=groups)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.gain, self.offset = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))
        before = (kernel - stride) // 2
        self.more = (0, 1, 0, 1) if (kernel - stride) % 2 else None
        self.conv.padding, self.bent = (before, before), bent

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = F.pad(x, self.more) if self.more else x
        weight = self.conv.weight * self.gain[:, None, None, None]  # cheaper than to multiply what comes out
        single = self.conv.groups > 1 and x.device.type in SINGLE and torch.is_grad_enabled()
        with torch.autocast(x.device.type, enabled=not single and torch.is_autocast_enabled(x.device.type)):
            x = x.float() if single else x
            x = F.conv2d(x, weight, self.offset, self.conv.stride, self.conv.padding, 1, self.conv.groups)
        return F.relu6(x, inplace=not torch.is_grad_enabled()) if self.bent else x

    def settled(self, dtype: torch.dtype) -> "Settled":
        """The same, not to be trained."""
        return Settled(self, dtype)


class Settled(nn.Module):
    """A `Layer` that will not be trained: its gains are in its filters, kept in the arithmetic they work in."""

    def __init__(self, layer: Layer, dtype: torch.dtype):
        super().__init__()
        weight, conv = layer.conv.weight * layer.gain[:, None, None, None], layer.conv
        self.stride, self.padding, self.groups, self.bent = conv.stride, conv.padding, conv.groups, layer.bent
        if layer.more:  # zeros in the filter, on the left and above, in place of those beside a copy of the picture
            weight, self.padding = F.pad(weight, (1, 0, 1, 0)), tuple(n + 1 for n in conv.padding)
        self.register_buffer("weight", weight.detach().to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("offset", layer.offset.detach().to(dtype))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = x.to(self.weight.dtype)
        if self.bent and x.device.type == "cpu" and torch.backends.mkldnn.is_available():  # bends before it stores
            last = ("hardtanh", [0.0, 6.0], "")
            of_cpu = torch.ops.mkldnn._convolution_pointwise
            return of_cpu(x, self.weight, self.offset, self.padding, self.stride, (1, 1), self.groups, *last)
        x = F.conv2d(x, self.weight, self.offset, self.stride, self.padding, 1, self.groups)
        return F.relu6(x, inplace=True) if self.bent else x


def settled(net: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a network to be asked, not trained: modules that can be `settled` are; the network itself if it has no
    `Layer`."""
    if not any(isinstance(module, Layer) for module in net.modules()):
        return net
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if isinstance(module, nn.ReLU):  # what comes to it is a norm's, and nobody else's
            module.inplace = True
        for name, child in module.named_children():
            if hasattr(child, "settled"):
                setattr(module, name, child.settled(dtype))
    return net


class Block(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): widen, filter every channel by itself, narrow, add where it fits."""

    def __init__(self, inputs: int, row: Row, stride: int):
        super().__init__()
        wide = inputs * row.expand
        self.widen = Layer(inputs, wide) if row.expand > 1 else nn.Identity()
        self.filter = Layer(wide, wide, row.kernel, stride, groups=wide)
        self.narrow = Layer(wide, row.channels, bent=False)
        self.adds = stride == 1 and inputs == row.channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.narrow(self.filter(self.widen(x)))
        return x + y if self.adds else y


class Lite(nn.Module):
    """Images 0..1 to features at 1/2, 1/4, 1/8, 1/16 and 1/32 of their size (`channels` of the same grade)."""

    def __init__(self, grade: int = 0):
        super().__init__()
        self.stem, inputs, built = Layer(3, STEM, 3, 2), STEM, []
        for row in rows(grade):
            rest = [Block(row.channels, row, 1) for _ in range(row.repeats - 1)]
            built.append(nn.Sequential(Block(inputs, row, row.stride), *rest))
            inputs = row.channels
        self.rows = nn.ModuleList(built)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        x = ((images - 127 / 255) / (128 / 255)).contiguous(memory_format=torch.channels_last)
        x, seen = self.stem(x), []
        for row in self.rows:
            x = row(x)
            seen.append(x)
        return [seen[k] for k in TAPS]


def converted(found: Mapping[str, Tensor], grade: int = 0) -> dict[str, Tensor]:
    """State of `Lite` from that of the package efficientnet_lite_pytorch (names, batch norms, a classifier).

    Raises KeyError where that is another network.
    """
    state = layer("stem", found, "_conv_stem", "_bn0")
    number = 0
    for k, row in enumerate(rows(grade)):
        for j in range(row.repeats):
            theirs, ours = f"_blocks.{number}.", f"rows.{k}.{j}."
            if row.expand > 1:
                state |= layer(f"{ours}widen", found, f"{theirs}_expand_conv", f"{theirs}_bn0")
            state |= layer(f"{ours}filter", found, f"{theirs}_depthwise_conv", f"{theirs}_bn1")
            state |= layer(f"{ours}narrow", found, f"{theirs}_project_conv", f"{theirs}_bn2")
            number += 1
    return state


def layer(name: str, found: Mapping[str, Tensor], conv: str, norm: str) -> dict[str, Tensor]:
    """One `Layer` from a convolution and the batch norm behind it."""
    gain = found[f"{norm}.weight"] / (found[f"{norm}.running_var"] + EPSILON).sqrt()
    offset = found[f"{norm}.bias"] - gain * found[f"{norm}.running_mean"]
    return {f"{name}.conv.weight": found[f"{conv}.weight"], f"{name}.gain": gain, f"{name}.offset": offset}
