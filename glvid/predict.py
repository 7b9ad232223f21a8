"""Windows of a clip through the networks: depth of frames, flow of pairs, at working size."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from glvid.errors import UsageError
from glvid.types import Intrinsics

Images = UInt8[np.ndarray, "N H W 3"]
FlowOf = Callable[[Images, Images], Float[Tensor, "N 2 H W"]]

USUAL_FOCAL, USUAL_SIGMA = (
    0.8,
    0.3,
)  # of what people film with: focal over long side, and how far its log spreads
SAID_SIGMA = 0.45  # how far the log of the camera network's focal length is off on held rendered worlds


def working_size(size: tuple[int, int], long_side: int = 384, multiple: int = 32) -> tuple[int, int]:
    """Size (w, h) at which networks, solve and refinement run: long side `long_side`, both sides multiples of 32."""
    scale = long_side / max(size)
    return tuple(max(multiple, multiple * round(s * scale / multiple)) for s in size)


def chosen_device(name: str) -> str:
    """auto, cpu, cuda, cuda:N or mps as a torch device that exists. Raises UsageError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "mps": torch.backends.mps.is_available()}
    there |= {"cuda": torch.cuda.is_available()} | {f"cuda:{k}": True for k in range(torch.cuda.device_count())}
    if not there.get(name, False):
        raise UsageError(f"--device {name}: there is none on this machine; use --device auto")
    return name


def as_tensor(images: Images, device: str | torch.device = "cpu") -> Float[Tensor, "N 3 H W"]:
    """uint8 RGB, channels last, to float 0..1, channels first."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255


def predict_depth(net: nn.Module, images: Images, device: str | torch.device = "cpu", batch: int = 8) -> np.ndarray:
    """Depth (N, H, W) float32, up to scale, of every image by the depth network."""
    out = []
    with torch.inference_mode():
        for k in range(0, len(images), batch):
            out.append(net.depth(as_tensor(images[k : k + batch], device))[:, 0].float().cpu().numpy())
    return np.concatenate(out)


def predict_camera(
    net: nn.Module, a: Images, b: Images, shape: tuple[int, int], device: str | torch.device = "cpu"
) -> Intrinsics:
    """The camera network's intrinsics for frame pairs (a, b), their median as one camera with square pixels at `shape`.

    Returned at the images' own size. What the network says is weighed against what is usual (means of logs under their
    variances): by itself it is no better than that. The optical centre is put in the middle: its prediction is noise
    beside the focal length.
    """
    with torch.inference_mode():
        said = net(as_tensor(a, device), as_tensor(b, device))[2].focal.float().cpu()
    w, h = a.shape[2], a.shape[1]
    scale = torch.tensor([shape[0] / w, shape[1] / h])
    share = USUAL_SIGMA**2 / (USUAL_SIGMA**2 + SAID_SIGMA**2)
    usual = np.log(USUAL_FOCAL * max(shape))
    focal = float(np.exp(usual + share * (float((said * scale).log().mean(-1).median()) - usual)))
    whole = Intrinsics(torch.full((2,), focal), torch.tensor([shape[0] / 2, shape[1] / 2]), shape)
    return whole.resized((w, h))


def dis_flow(a: Images, b: Images, finest_scale: int = 1) -> Float[Tensor, "N 2 H W"]:
    """Flow a -> b by OpenCV's DIS (Kroeger et al. 2016), medium preset, on grey images.

    finest_scale 1 is the preset's and ends at half resolution; 0 goes on to full resolution: three times the time, and
    half the median error on rendered driving (0.46 px instead of 0.86 at 384x128).
    """
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(finest_scale)
    grey = [[cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in s] for s in (a, b)]
    flows = [dis.calc(x, y, None) for x, y in zip(*grey, strict=True)]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)


def fine_dis_flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
    """`dis_flow` to full resolution."""
    return dis_flow(a, b, finest_scale=0)


def net_flow(net: nn.Module, device: str | torch.device = "cpu", batch: int = 8) -> FlowOf:
    """The flow network as a function of two stacks of images."""

    def flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
        out = []
        with torch.inference_mode():
            for k in range(0, len(a), batch):
                out.append(net(as_tensor(a[k : k + batch], device), as_tensor(b[k : k + batch], device))[0].float())
        return torch.cat(out).cpu()

    return flow
