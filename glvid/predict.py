"""Windows of a clip through the networks: depth of frames, flow of pairs, at working size."""

from collections.abc import Callable, Sequence
from threading import RLock

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from glvid.errors import UsageError
from glvid.parallel import each
from glvid.types import Intrinsics, Shot
from glvid.warp import resize, resize_flow

Images = UInt8[np.ndarray, "N H W 3"]
FlowOf = Callable[[Images, Images], Float[Tensor, "N _c H W"]]  # px; a third channel says how far off it may be
Numbers = int | Sequence[int] | np.ndarray | Tensor  # of frames
Store = Callable[[tuple[int, ...], type], np.ndarray]  # zeros of this shape and type, in memory or on disk

USUAL_FOCAL, USUAL_SIGMA = (
    0.8,
    0.3,
)  # of what people film with: focal over long side, and how far its log spreads
SURER = 4.0  # at most, of one pixel of a frame than of the usual one
SAID_SIGMA = 0.2  # of the camera network's log focal length: 0.16 on held rendered worlds, taken for more elsewhere


def working_size(
    size: tuple[int, int], long_side: int = 384, multiple: int = 32, flat: float = 7 / 12
) -> tuple[int, int]:
    """Size (w, h) at which networks, solve and refinement run, both sides multiples of 32: long side `long_side`, but
    no more pixels than a picture that is `flat` times as high as wide has, so that every shape takes about as long.

    On 7-Scenes, 352x256 instead of 384x288 changes depth and path by less than a tenth and takes a fifth less.
    """
    w, h = size
    scale = min(long_side / max(size), long_side * (flat / (w * h)) ** 0.5)
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


def chosen_precision(name: str, device: str) -> str:
    """auto, fp32 or bf16 as fp32 or bf16. auto: bf16 where the device multiplies it by itself, which makes the depth
    network 2.5 times faster on such CPUs, and its log depth 0.0003 off (median)."""
    native = device.startswith("cuda") or (device == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False))
    return name if name != "auto" else "bf16" if native else "fp32"


def as_tensor(images: Images, device: str | torch.device = "cpu") -> Float[Tensor, "N 3 H W"]:
    """uint8 RGB, channels last, to float 0..1, channels first."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).float() / 255


def predict_depth(net: nn.Module, images: Images, device: str | torch.device = "cpu", batch: int = 8) -> np.ndarray:
    """Depth (N, H, W) float32, up to scale, of every image by the depth network."""
    return estimated(net, images, device, batch)[0]


def estimated(
    net: nn.Module, images: Images, device: str | torch.device = "cpu", batch: int = 8
) -> tuple[np.ndarray, np.ndarray | None]:
    """Depth (N, H, W) float32 of every image, and how far off its log is expected to be, where the network says so."""
    out = []
    with torch.inference_mode():
        for k in range(0, len(images), batch):
            found = net.estimate(as_tensor(images[k : k + batch], device))
            out.append([None if x is None else x[:, 0].float().cpu().numpy() for x in found])
    depth, sigma = zip(*out, strict=True)
    return np.concatenate(depth), None if sigma[0] is None else np.concatenate(sigma)


def over_median(sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How far off pixels are said to be, over their median.

    Relative, because what networks say of their error is too little wherever they are far from what they know; that
    hardly touches which of two pixels is the surer one. Bounded for the same reason.
    """
    return (sigma / sigma.median().clamp_min(1e-6)).clamp(1 / SURER, SURER)


def predict_camera(
    net: nn.Module, a: Images, b: Images, shape: tuple[int, int], device: str | torch.device = "cpu"
) -> Intrinsics:
    """The camera network's intrinsics for frame pairs (a, b), their median as one camera with square pixels at `shape`.

    Returned at the images' own size. What the network says is weighed against what is usual (means of logs under their
    variances). The optical centre is put in the middle: its prediction is noise
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


def dis_flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
    """Flow a -> b by OpenCV's DIS (Kroeger et al. 2016), medium preset, on grey images; it ends at half resolution."""
    return flow_of_pairs(lambda a, b: medium_dis().calc(a, b, None), a, b)


def fine_dis_flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
    """`dis_flow` gone on to full resolution, which halves its median error (0.14 to 0.07 px between neighbours of four
    rendered worlds at 384x224): fewer patches and steps than its own last level takes, since it starts closer."""

    def matched(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        dis = medium_dis()
        dis.setVariationalRefinementIterations(1)  # where it starts from need not be smooth
        coarse = dis.calc(a, b, None)
        dis.setCoarsestScale(0)
        dis.setFinestScale(0)
        dis.setPatchStride(5)
        dis.setGradientDescentIterations(5)
        dis.setVariationalRefinementIterations(3)
        return dis.calc(a, b, coarse)

    return flow_of_pairs(matched, a, b)


def full_dis_flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
    """DIS down to full resolution in one go: three times the time of `dis_flow`. Its mean error on collages is a tenth
    lower, on rendered worlds the same; where there is little motion it is half."""

    def matched(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        dis = medium_dis()
        dis.setFinestScale(0)
        dis.setPatchStride(4)
        dis.setGradientDescentIterations(16)
        dis.setVariationalRefinementIterations(10)
        return dis.calc(a, b, None)

    return flow_of_pairs(matched, a, b)


def smoothed(a: Images, b: Images, flow: Float[Tensor, "N 2 H W"]) -> Float[Tensor, "N 2 H W"]:
    """Flow drawn to where grey levels and their gradients fit, and to be smooth (Brox et al. 2004, as DIS ends)."""

    def of_pair(x: tuple[np.ndarray, np.ndarray, Tensor]) -> np.ndarray:
        better = cv2.VariationalRefinement_create()
        better.setFixedPointIterations(5)
        return better.calc(*map(grey, x[:2]), np.ascontiguousarray(x[2].permute(1, 2, 0).numpy()).copy())

    return torch.from_numpy(np.stack(list(each(of_pair, zip(a, b, flow, strict=True))))).permute(0, 3, 1, 2)


def medium_dis() -> cv2.DISOpticalFlow:
    """DIS as its medium preset has it."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def grey(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """What flow is matched on."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)


def flow_of_pairs(match: Callable[[np.ndarray, np.ndarray], np.ndarray], a: Images, b: Images) -> Tensor:
    """`match` of the grey pictures of every pair, pairs side by side."""

    def of_pair(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return match(*map(grey, pair))

    return torch.from_numpy(np.stack(list(each(of_pair, zip(a, b, strict=True))))).permute(0, 3, 1, 2)


def first_guess(a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
    """Flow a -> b of images 0..1 by DIS, which the flow network starts from."""
    pictures = [np.ascontiguousarray((255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()) for x in (a, b)]
    return full_dis_flow(*pictures).to(a.device)


def net_flow(net: nn.Module, device: str | torch.device = "cpu", batch: int = 8) -> FlowOf:
    """The flow network as a function of two stacks of images; it starts from DIS at full resolution, ends as that does
    (`smoothed`), and says how far off it expects to be."""

    def flow(a: Images, b: Images) -> Float[Tensor, "N 3 H W"]:
        out = []
        with torch.inference_mode():
            for k in range(0, len(a), batch):
                a_, b_ = a[k : k + batch], b[k : k + batch]
                found = net(as_tensor(a_, device), as_tensor(b_, device), full_dis_flow(a_, b_).to(device))
                flow = smoothed(a_, b_, found.flow.float().cpu())
                out.append(torch.cat([flow, found.log_spread.float().exp().cpu()], 1))
        return torch.cat(out)

    return flow


def in_memory(shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """The `Store` for short shots."""
    return np.zeros(shape, kind)


def dense_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which pixels are triangulated: half the working size."""
    return size[0] // 2, size[1] // 2


class Flows:
    """Flow between the frames of a shot at `dense_size`; every pair of frames is matched once.

    What was found stays in `store`, 4 bytes a vector: solve, triangulation and descent all ask for the same pairs, and
    matching is most of their time.
    """

    STEP = 1 / 64  # px, of what is kept; so vectors of up to 512 px
    AT_ONCE = 16  # pairs

    def __init__(self, shot: Shot, flow: FlowOf, store: Store = in_memory) -> None:
        self.shot, self.flow, self.store, self.size = shot, flow, store, dense_size(shot.size)
        self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by j - i: flow of every i, and whether it is there
        self.small: tuple[np.ndarray, np.ndarray] | None = None  # frames at this size, and which of them are there
        self.lock = RLock()  # frames are worked on in parallel

    def __call__(self, i: Numbers, j: Numbers) -> Float[Tensor, "P 2 h w"]:
        """Flow of every frame of i to its one of j."""
        i, j = np.atleast_1d(i), np.atleast_1d(j)
        pairs = list(zip(i.tolist(), j.tolist(), strict=True))
        with self.lock:
            new = np.array([not self.rows(b - a)[1][a] for a, b in pairs])
            for k in range(0, new.sum(), self.AT_ONCE):
                self.sharp(i[new][k : k + self.AT_ONCE], j[new][k : k + self.AT_ONCE])
        found = np.stack([self.rows(b - a)[0][a] for a, b in pairs])
        return torch.from_numpy(found).float() * self.STEP

    def images(self, n: Numbers) -> Float[Tensor, "P 3 h w"]:
        """Frames at the same size, 0..1; each is made small once."""
        n = np.atleast_1d(n)
        with self.lock:
            small, there = self.stored()
            new = np.unique(n[~there[n]])
            if len(new):
                small[new] = resize(as_tensor(self.shot.images[new]), self.size).numpy()
                there[new] = True
        return torch.from_numpy(small[n])

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """What is kept of `images`."""
        if self.small is None:
            n, (w, h) = len(self.shot), self.size
            self.small = self.store((n, 3, h, w), np.float32), np.zeros(n, bool)
        return self.small

    def sharp(self, i: np.ndarray, j: np.ndarray) -> Float[Tensor, "P _c H W"]:
        """The same at working size, computed anew, with what the network says of its error, if it does."""
        found = self.flow(self.shot.images[i], self.shot.images[j])
        self.keep(i, j, found[:, :2])
        return found

    def keep(self, i: np.ndarray, j: np.ndarray, flow: Float[Tensor, "P 2 H W"]) -> None:
        """Remember flow i -> j, of any size."""
        steps = (resize_flow(flow, self.size) / self.STEP).round().clamp(-32767, 32767).short().numpy()
        for a, b, step in zip(i.tolist(), j.tolist(), steps, strict=True):
            rows, there = self.rows(b - a)
            rows[a], there[a] = step, True

    def rows(self, apart: int) -> tuple[np.ndarray, np.ndarray]:
        """What is kept of pairs so many frames apart."""
        with self.lock:
            if apart not in self.kept:
                n, (w, h) = len(self.shot), self.size
                self.kept[apart] = self.store((n, 2, h, w), np.int16), np.zeros(n, bool)
            return self.kept[apart]

    def part(self, first: int, last: int) -> "Flows":
        """The same of frames first..last-1 alone; what it finds is kept here."""
        return FlowsOfPart(self, first, last)


class FlowsOfPart(Flows):
    """Flow between some frames of a shot, kept with that of the others."""

    def __init__(self, whole: Flows, first: int, last: int) -> None:
        super().__init__(whole.shot.part(first, last), whole.flow, whole.store)
        self.whole, self.frames, self.lock = whole, slice(first, last), whole.lock

    def rows(self, apart: int) -> tuple[np.ndarray, np.ndarray]:
        """What the whole keeps."""
        flow, there = self.whole.rows(apart)
        return flow[self.frames], there[self.frames]

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """What the whole keeps."""
        small, there = self.whole.stored()
        return small[self.frames], there[self.frames]
