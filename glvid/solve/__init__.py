"""The camera of a shot from geometry: flow matches and depth -> one focal length, every pose, depth scale.

matches: points followed by flow · bundle: all unknowns at once · starts: where that begins · welds: steps at which the
scale of a path breaks · shot: the whole way · loops: places seen again · long: shots of any length,
window by window
"""

from glvid.solve.long import solve
from glvid.solve.shot import PARALLAX, motionless

__all__ = ["PARALLAX", "motionless", "solve"]
