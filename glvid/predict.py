"""Windows of a clip through the networks: depth of frames, flow of pairs, at working size."""

import errno
from collections.abc import Callable, Sequence
from threading import RLock

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from glvid.errors import UsageError
from glvid.parallel import each
from glvid.store import Store
from glvid.types import Intrinsics, Shot
from glvid.warp import length, resize, resize_flow, sample_at, warp

Images = UInt8[np.ndarray, "N H W 3"]
# px; a third channel says how far off it may be. With a third argument it is looked for near that flow alone
FlowOf = Callable[..., Float[Tensor, "N _c H W"]]
Numbers = int | Sequence[int] | np.ndarray | Tensor  # of frames

USUAL_FOCAL, USUAL_SIGMA = (
    0.8,
    0.3,
)  # of what people film with: focal over long side, and how far its log spreads
SURER = 4.0  # at most, of one pixel of a frame than of the usual one
LEAST = 16  # px, of a side that DIS needs: it fails on smaller pictures, or reads beyond them
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


Estimate = tuple[np.ndarray, np.ndarray | None]  # depth (N, H, W), and how far off its log may be


def estimated(net: nn.Module, images: Images, device: str | torch.device = "cpu", batch: int = 8) -> Estimate:
    """Depth (N, H, W) float32 of every image, and how far off its log is expected to be, where the network says so.

    Where memory does not suffice, images are taken in smaller and smaller batches, then in overlapping tiles.
    """
    return joined([fitted(net, images[k : k + batch], device) for k in range(0, len(images), batch)])


def joined(parts: Sequence[Estimate]) -> Estimate:
    """Estimates of some images and of others as one."""
    depth, sigma = zip(*parts, strict=True)
    return np.concatenate(depth), None if sigma[0] is None else np.concatenate(sigma)


def fitted(net: nn.Module, images: Images, device: str | torch.device) -> Estimate:
    """`estimated` of one batch. Raises what torch does of memory when even a tile of one image is too much."""
    try:
        with torch.inference_mode():
            found = net.estimate(as_tensor(images, device))
            return tuple(None if x is None else x[:, 0].float().cpu().numpy() for x in found)
    except RuntimeError as error:
        if not is_of_memory(error) or (len(images) == 1 and max(images.shape[1:3]) <= SMALLEST):
            raise
    release_memory(device)  # not above: the error holds on to what was in memory
    if len(images) > 1:
        half = len(images) // 2
        return joined([fitted(net, part, device) for part in (images[:half], images[half:])])
    return tiled(net, images, device)


SMALLEST = 128  # px: tiles are not made of what is no larger


def tiled(net: nn.Module, images: Images, device: str | torch.device) -> Estimate:
    """`fitted` of two tiles along the long side that share a third of it, the second in the scale of the first."""
    axis = 1 + int(images.shape[2] >= images.shape[1])
    side = images.shape[axis]
    length = min(side - 32, 32 * -(-2 * side // 96))
    parts = [np.take(images, range(*ends), axis) for ends in ((0, length), (side - length, side))]
    (a, sigma_a), (b, sigma_b) = (fitted(net, part, device) for part in parts)
    shared = 2 * length - side
    ratio = np.take(a, range(length - shared, length), axis) / np.take(b, range(shared), axis)
    b = b * np.exp(np.median(np.log(ratio))).astype(np.float32)
    depth = np.exp(blended(np.log(a), np.log(b), shared, axis))
    return depth, None if sigma_a is None else blended(sigma_a, sigma_b, shared, axis)


def blended(a: np.ndarray, b: np.ndarray, shared: int, axis: int) -> np.ndarray:
    """Two maps that overlap by `shared` along an axis as one, the one going over into the other there."""
    shape = [1, 1, 1]
    shape[axis] = shared
    weight = ((np.arange(shared, dtype=np.float32) + 0.5) / shared).reshape(shape)
    n, m = a.shape[axis], b.shape[axis]
    ends = np.take(a, range(n - shared, n), axis), np.take(b, range(shared), axis)
    middle = (1 - weight) * ends[0] + weight * ends[1]
    return np.concatenate([np.take(a, range(n - shared), axis), middle, np.take(b, range(shared, m), axis)], axis)


def is_of_memory(error: BaseException) -> bool:
    """Does an error of torch, OpenCV or Python say that memory was short?"""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    words = ("can't allocate memory", "not enough memory", "can't start new thread")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def release_memory(device: str | torch.device) -> None:
    """Give back what torch keeps for later on a GPU."""
    if str(device).startswith("cuda"):
        torch.cuda.empty_cache()


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


def dis_flow(a: Images, b: Images, start: Float[Tensor, "N 2 H W"] | None = None) -> Float[Tensor, "N 2 H W"]:
    """Flow a -> b by OpenCV's DIS (Kroeger et al. 2016), medium preset, on grey images; it ends at half resolution.
    From a `start`, that resolution alone is searched."""

    def matched(a: np.ndarray, b: np.ndarray, start: np.ndarray | None) -> np.ndarray:
        dis = medium_dis()
        if start is not None:
            dis.setCoarsestScale(1)
        return dis.calc(a, b, start)

    return flow_of_pairs(matched, a, b, start)


def rough_dis_flow(a: Images, b: Images, start: Float[Tensor, "N 2 H W"] | None = None) -> Float[Tensor, "N 2 H W"]:
    """`dis_flow` of fewer patches and steps, in three fifths of the time: good enough for the way back, which is not
    stored (median error 0.21 instead of 0.19 px between neighbours of four rendered worlds at 384x224)."""

    def matched(a: np.ndarray, b: np.ndarray, start: np.ndarray | None) -> np.ndarray:
        dis = medium_dis()
        dis.setPatchStride(5)
        dis.setGradientDescentIterations(12)
        dis.setVariationalRefinementIterations(3)
        return dis.calc(a, b, start)

    return flow_of_pairs(matched, a, b, start)


def fine_dis_flow(a: Images, b: Images, start: Float[Tensor, "N 2 H W"] | None = None) -> Float[Tensor, "N 2 H W"]:
    """`dis_flow` gone on to full resolution, which halves its median error (0.14 to 0.07 px between neighbours of four
    rendered worlds at 384x224): fewer patches and steps than its own last level takes, since it starts closer. From a
    `start`, full resolution alone is searched."""

    def matched(a: np.ndarray, b: np.ndarray, start: np.ndarray | None) -> np.ndarray:
        dis = medium_dis()
        if start is None:
            dis.setVariationalRefinementIterations(1)  # where it starts from need not be smooth
            start = dis.calc(a, b, None)
        dis.setCoarsestScale(0)
        dis.setFinestScale(0)
        dis.setPatchStride(5)
        dis.setGradientDescentIterations(5)
        dis.setVariationalRefinementIterations(3)
        return dis.calc(a, b, start)

    return flow_of_pairs(matched, a, b, start)


def full_dis_flow(a: Images, b: Images) -> Float[Tensor, "N 2 H W"]:
    """DIS down to full resolution in one go: three times the time of `dis_flow`. Its mean error on collages is a tenth
    lower, on rendered worlds the same; where there is little motion it is half."""

    def matched(a: np.ndarray, b: np.ndarray, start: None) -> np.ndarray:
        dis = medium_dis()
        dis.setFinestScale(0)
        dis.setPatchStride(4)
        dis.setGradientDescentIterations(16)
        dis.setVariationalRefinementIterations(10)
        return dis.calc(a, b, start)

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


def flow_of_pairs(
    match: Callable[..., np.ndarray], a: Images, b: Images, start: Float[Tensor, "N 2 H W"] | None = None
) -> Tensor:
    """`match` of the grey pictures of every pair and its start, pairs side by side; pictures that are too small for it
    are continued by their edges."""
    (h, w), n = a.shape[1:3], len(a)
    edges = 0, max(0, LEAST - h), 0, max(0, LEAST - w)
    starts = [None] * n if start is None else start.permute(0, 2, 3, 1).numpy()

    def of_pair(pair: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> np.ndarray:
        known = (x if x.dtype == np.float32 else grey(x) for x in pair if x is not None)
        found = [cv2.copyMakeBorder(np.ascontiguousarray(x), *edges, cv2.BORDER_REPLICATE) for x in known]
        return match(*found, *([None] if start is None else []))[:h, :w]

    return torch.from_numpy(np.stack(list(each(of_pair, zip(a, b, starts, strict=True))))).permute(0, 3, 1, 2)


WINDOW, ASTRAY = 13, 2.5  # px that look alike around a point; farther from where it was it is not drawn


def drawn(a: Images, b: Images, xy: Float[Tensor, "N M 2"], target: Float[Tensor, "N M 2"]) -> Float[Tensor, "N M 2"]:
    """`target` (px in b) of points `xy` (px in a) drawn to where their surroundings look most alike (Lucas and Kanade
    1981); what that leads astray stays."""

    def of_pair(x: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        found, there, _ = cv2.calcOpticalFlowPyrLK(
            *map(grey, x[:2]),
            *(p - 0.5 for p in x[2:]),
            winSize=(WINDOW, WINDOW),
            maxLevel=0,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
            criteria=(cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 10, 0.01),
        )
        found += 0.5
        near = (there[:, 0] > 0) & (np.abs(found - x[3]).max(-1) < ASTRAY)
        return np.where(near[:, None], found, x[3])

    return torch.from_numpy(np.stack(list(each(of_pair, zip(a, b, xy.numpy(), target.numpy(), strict=True)))))


def first_guess(a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 H W"]:
    """Flow a -> b of images 0..1 by DIS, which the flow network starts from."""
    pictures = [np.ascontiguousarray((255 * x).round().byte().permute(0, 2, 3, 1).cpu().numpy()) for x in (a, b)]
    return full_dis_flow(*pictures).to(a.device)


def net_flow(net: nn.Module, device: str | torch.device = "cpu", batch: int = 8) -> FlowOf:
    """The flow network as a function of two stacks of images; it starts from DIS at full resolution, ends as that does
    (`smoothed`), and says how far off it expects to be."""

    def flow(a: Images, b: Images, start: Float[Tensor, "N 2 H W"] | None = None) -> Float[Tensor, "N 3 H W"]:
        guess = full_dis_flow(a, b) if start is None else fine_dis_flow(a, b, start)
        parts = (slice(k, k + batch) for k in range(0, len(a), batch))
        return torch.cat([of_batch(a[some], b[some], guess[some]) for some in parts])

    def of_batch(a: Images, b: Images, guess: Float[Tensor, "N 2 H W"]) -> Float[Tensor, "N 3 H W"]:
        """As many pairs at once as there is memory for."""
        try:
            with torch.inference_mode():
                found = net(as_tensor(a, device), as_tensor(b, device), guess.to(device))
                flow = smoothed(a, b, found.flow.float().cpu())
                return torch.cat([flow, found.log_spread.float().exp().cpu()], 1)
        except RuntimeError as error:
            if not is_of_memory(error) or len(a) == 1:
                raise
        release_memory(device)
        half = len(a) // 2
        return torch.cat([of_batch(a[:half], b[:half], guess[:half]), of_batch(a[half:], b[half:], guess[half:])])

    return flow


def dense_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size at which pixels are triangulated: half the working size."""
    return size[0] // 2, size[1] // 2


STRAY = 1.0  # px from flow that was put together, at which one that was looked for from there is half believed


def nearby(flow: Float[Tensor, "N 2 H W"], found: Float[Tensor, "N _c H W"]) -> Float[Tensor, "N _c H W"]:
    """What was found from `flow` on, as far as it stays near it: drift is small, what jumps has gone astray."""
    share = 1 / (1 + (length(found[:, :2] - flow) / STRAY) ** 4)
    return torch.cat([torch.lerp(flow, found[:, :2], share), found[:, 2:]], 1)


class Flows:
    """Flow between the frames of a shot at `dense_size`; every pair of frames is matched once.

    Between frames that are no neighbours it is put together from that between neighbours, frame by frame, and then, if
    `polished`, drawn to the pictures: what moves far is lost where frames far apart are matched from nothing. On four
    rendered worlds, 2, 4, 8 frames apart, more than 3 px off: 7.1, 9, 12 % of what rests and is seen, and 12, 18, 39 %
    when matched by `fine_dis_flow` (medians 0.23, 0.32, 0.37 and 0.37, 1.9, 12 px; unpolished 0.25, 0.36, 0.51).
    What was found stays in `store`, 4 bytes a vector: solve, triangulation and descent all ask for the same pairs; that
    of every frame to the next one at working size too (`onward`). `back` finds flow to the frame before, which may
    be a cheaper one: it is followed and compared like the other, but never a result.
    """

    STEP = 1 / 64  # px, of what is kept; so vectors of up to 512 px
    AT_ONCE = 16  # pairs

    def __init__(
        self,
        shot: Shot,
        flow: FlowOf,
        store: Store | None = None,
        polished: bool = True,
        back: FlowOf | None = None,
    ) -> None:
        self.shot, self.flow, self.size, self.polished = shot, flow, dense_size(shot.size), polished
        self.back = flow if back is None else back
        self.store = Store() if store is None else store
        self.kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by name: flow of every i, and whether it is there
        self.small: tuple[np.ndarray, np.ndarray] | None = None  # frames at this size, and which of them are there
        self.lock = RLock()  # frames are worked on in parallel

    def __call__(self, i: Numbers, j: Numbers) -> Float[Tensor, "P 2 h w"]:
        """Flow of every frame of i to its one of j."""
        i, j = np.atleast_1d(i), np.atleast_1d(j)
        with self.lock:
            for apart in sorted(set((j - i).tolist()), key=abs):
                some = np.unique(i[j - i == apart])
                some = some[~self.rows(apart)[1][some]]
                for k in range(0, len(some), self.AT_ONCE):
                    self.find(some[k : k + self.AT_ONCE], apart)
        found = np.stack([self.rows(b - a)[0][a] for a, b in zip(i.tolist(), j.tolist(), strict=True)])
        return torch.from_numpy(found).float() * self.STEP

    def find(self, i: np.ndarray, apart: int) -> Float[Tensor, "P _c H W"]:
        """Flow of frames i to those so many frames on, to be kept: at working size, but for what is only put together,
        which is of the size that is kept."""
        if abs(apart) < 2:
            found = (self.flow if apart > 0 else self.back)(self.shot.images[i], self.shot.images[i + apart])
        else:
            half = int(apart / 2)
            there = self(i, i + half)
            found = there + warp(self(i + half, i + apart), there)[0]
            if self.polished:
                found = resize_flow(found, self.shot.size)
                found = nearby(found, self.flow(self.shot.images[i], self.shot.images[i + apart], found))
        self.keep(i, i + apart, found[:, :2])
        if apart == 1:
            self.put(self.sharp_rows(), i, found[:, :2])
        return found

    def onward(self, n: int) -> Float[Tensor, "1 2 H W"]:
        """Flow of frame n to the next one, at working size."""
        with self.lock:
            if not self.sharp_rows()[1][n]:
                self.find(np.array([n]), 1)
        return torch.from_numpy(self.sharp_rows()[0][n])[None].float() * self.STEP

    def led(
        self, xy: Float[Tensor, "P M 2"], i: np.ndarray, apart: int
    ) -> tuple[Float[Tensor, "P M 2"], Float[Tensor, "P M"]]:
        """Where flow between neighbours leads points of frames i (px of working size) so many frames on, and 1 where
        it stays within the pictures."""
        ratio, step = xy.new_tensor(self.size) / xy.new_tensor(self.shot.size), 1 if apart > 0 else -1
        within = torch.ones(xy.shape[:2])
        for k in range(0, apart, step):
            moved, inside = sample_at(self(i + k, i + k + step), (xy * ratio).transpose(1, 2)[:, :, None])
            xy, within = xy + moved[:, :, 0].transpose(1, 2) / ratio, within * inside[:, 0, 0]
        return xy, within

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
            self.small = self.store.array("small", (n, 3, h, w), np.float32), self.store.done("small", n)
        return self.small

    def sharp(self, i: np.ndarray, j: np.ndarray) -> Float[Tensor, "P _c H W"]:
        """The same as `find` has it, found anew, with what the network says of its error, if it does; all pairs as far
        apart."""
        with self.lock:
            return self.find(i, int(j[0] - i[0]))

    def keep(self, i: np.ndarray, j: np.ndarray, flow: Float[Tensor, "P 2 H W"]) -> None:
        """Remember flow i -> j, of any size."""
        small = resize_flow(flow, self.size)
        for apart in np.unique(j - i).tolist():
            self.put(self.rows(apart), i[j - i == apart], small[j - i == apart])

    def put(self, kept: tuple[np.ndarray, np.ndarray], i: np.ndarray, flow: Float[Tensor, "P 2 _h _w"]) -> None:
        """Remember flow of frames i, of the size that is kept."""
        rows, there = kept
        rows[i] = (flow / self.STEP).round().clamp(-32767, 32767).short().numpy()
        there[i] = True

    def rows(self, apart: int) -> tuple[np.ndarray, np.ndarray]:
        """What is kept of pairs so many frames apart."""
        return self.named(f"flow{apart:+d}", self.size)

    def sharp_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """What is kept of `onward`."""
        return self.named("onward", self.shot.size)

    def named(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """What is kept under a name."""
        with self.lock:
            if name not in self.kept:
                n, (w, h) = len(self.shot), size
                self.kept[name] = self.store.array(name, (n, 2, h, w), np.int16), self.store.done(name, n)
            return self.kept[name]

    def part(self, first: int, last: int) -> "Flows":
        """The same of frames first..last-1 alone; what it finds is kept here."""
        return FlowsOfPart(self, first, last)


class FlowsOfPart(Flows):
    """Flow between some frames of a shot, kept with that of the others."""

    def __init__(self, whole: Flows, first: int, last: int) -> None:
        super().__init__(whole.shot.part(first, last), whole.flow, whole.store, whole.polished, whole.back)
        self.whole, self.frames, self.lock = whole, slice(first, last), whole.lock

    def named(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """What the whole keeps."""
        flow, there = self.whole.named(name, size)
        return flow[self.frames], there[self.frames]

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """What the whole keeps."""
        small, there = self.whole.stored()
        return small[self.frames], there[self.frames]
