"""Where one shot ends and the next begins."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from glvid.video.pictures import Rgb
from glvid.warp import visibility

# 22 real clips: frames in sequence score at most 0.38, also with one exposed 0.3 to 3 times as long; splices 0.48 up
CUT = 0.43
LONG = 96  # px, long side at which frames are compared
FLOW_SIDE = 384  # px, long side at which flow is found
BLOCK = 16  # px, also how far a block is searched for: a sixth of the picture
FOLLOWED = 0.25  # share of pixels that flow leads there and back: 0.57 where a street rushes by, 0.11 at most at a cut
FLAT = 3.0  # grey levels; blocks of a smaller standard deviation match anywhere


def is_cut(a: Rgb, b: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Does a hard cut lie between two consecutive frames of one size? See `cut_score`; and flow cannot follow: things
    so near that they cross the picture from one frame to the next are unlike, but behind them the scene goes on."""
    return all(score > CUT for score in _scores(a, b)) and (
        _blank(_small(a, a.shape)) != _blank(_small(b, a.shape)) or _followed(a, b) < FOLLOWED
    )


def _followed(a: Rgb, b: Rgb) -> float:
    """Share of the pixels of `a` that flow (DIS) leads to `b` and back to within a px, at a long side of FLOW_SIDE."""
    size = tuple(max(BLOCK, round(n * FLOW_SIDE / max(a.shape[:2]))) for n in a.shape[1::-1])
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(cv2.resize(np.ascontiguousarray(x), size), cv2.COLOR_RGB2GRAY) for x in (a, b)]
    there, back = (torch.from_numpy(dis.calc(x, y, None)).permute(2, 0, 1)[None] for x, y in (grey, reversed(grey)))
    return float(visibility(there, back).mean())


def _blank(image: Rgb) -> bool:
    return bool(image.std((0, 1)).max() < FLAT)


def cut_score(a: Rgb, b: UInt8[np.ndarray, "h w 3"]) -> float:
    """How unlike two consecutive frames are, about 0 to 1; a hard cut mostly lies between them where it exceeds `CUT`.

    Flashes and exposure steps do not count: the frames are compared with the tones of one matched to the other's,
    either way, and the smaller difference holds. Fast motion does not count: see `_difference`. Between a picture and
    a blank frame lies a cut.
    """
    return min(_scores(a, b))


def _scores(a: Rgb, b: UInt8[np.ndarray, "h w 3"]) -> Iterator[float]:
    """Those that `cut_score` takes the least of."""
    a, b = _small(a, a.shape), _small(b, a.shape)
    if _blank(a) != _blank(b):
        yield 1.0
        return
    yield _difference(_toned(a, b), b)
    yield _difference(a, _toned(b, a))


def _small(image: Rgb, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Resampled to the size at which frames of `shape` (H, W, 3) are compared; at least one block wide and high."""
    height, width = (max(BLOCK, round(n * LONG / max(shape[:2]))) for n in shape[:2])
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def _toned(image: Rgb, like: Rgb) -> Rgb:
    """`image` with the tonal distribution of `like`, channel by channel (histogram specification)."""
    out = np.empty_like(image)
    for k in range(3):
        own, wanted = (np.cumsum(np.bincount(x[..., k].ravel(), minlength=256)) / x[..., k].size for x in (image, like))
        curve = np.searchsorted(wanted, own - 1e-9)  # - 1e-9: equal shares may differ in their last bit
        out[..., k] = curve.clip(0, 255)[image[..., k]]
    return out


def _difference(a: Rgb, b: Rgb) -> float:
    """One minus the correlation at which the median textured block of either frame is found again near its place in
    the other, plus 0.8 of the Bhattacharyya distance of their colour histograms."""
    grey_a, grey_b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b))
    found = (_found_again(grey_a, grey_b) + _found_again(grey_b, grey_a)) / 2
    colours = [cv2.calcHist([x], [0, 1, 2], None, [8] * 3, [0, 256] * 3) for x in (a, b)]
    return 1 - found + 0.8 * cv2.compareHist(*colours, cv2.HISTCMP_BHATTACHARYYA)


def _found_again(a: np.ndarray, b: np.ndarray) -> float:
    """Median over the textured blocks of `a` of their best correlation in `b`; 1 when there is no texture."""
    padded = cv2.copyMakeBorder(b, BLOCK, BLOCK, BLOCK, BLOCK, cv2.BORDER_REPLICATE)
    best = []
    for y in range(0, a.shape[0] - BLOCK + 1, BLOCK):
        for x in range(0, a.shape[1] - BLOCK + 1, BLOCK):
            block = a[y : y + BLOCK, x : x + BLOCK]
            if block.std() >= FLAT:
                around = padded[y : y + 3 * BLOCK, x : x + 3 * BLOCK]
                best.append(cv2.matchTemplate(around, block, cv2.TM_CCOEFF_NORMED).max())
    return float(np.median(best)) if best else 1.0
