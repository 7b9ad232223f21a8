"""Where one shot ends and the next begins."""

import cv2
import numpy as np

from glvid.video.pictures import Rgb

CUT = 0.4  # 22 real clips: frames three apart score below 0.4 (99.9 %), 99.8 % of splices between clips above it
LONG = 96  # px, long side at which frames are compared
BLOCK = 16  # px, also how far a block is searched for: a sixth of the picture
FLAT = 3.0  # grey levels; blocks of a smaller standard deviation match anywhere


def cut_score(a: Rgb, b: Rgb) -> float:
    """How unlike two consecutive frames are, about 0 to 1; a hard cut lies between them above `CUT`.

    One minus the correlation at which the median textured block of either frame is found again near its place in the
    other (normalised, so that exposure and flashes that do not saturate do not count; searched, so that motion does
    not), plus a fifth of the Bhattacharyya distance of their colour histograms.
    """
    a, b = _small(a, a.shape), _small(b, a.shape)
    grey_a, grey_b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b))
    found = (_found_again(grey_a, grey_b) + _found_again(grey_b, grey_a)) / 2
    colours = [cv2.calcHist([x], [0, 1, 2], None, [8] * 3, [0, 256] * 3) for x in (a, b)]
    return 1 - found + 0.2 * cv2.compareHist(*colours, cv2.HISTCMP_BHATTACHARYYA)


def _small(image: Rgb, shape: tuple[int, ...]) -> Rgb:
    """Resampled to the size at which frames of `shape` (H, W, 3) are compared; at least one block wide and high."""
    height, width = (max(BLOCK, round(n * LONG / max(shape[:2]))) for n in shape[:2])
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


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
