"""The camera of a shot from geometry: flow matches and depth -> one focal length, every pose, depth scale.

matches: points followed by flow · bundle: all unknowns at once · starts: where that begins · shot: the whole way
"""

from glvid.solve.shot import PARALLAX, motionless, solve

__all__ = ["PARALLAX", "motionless", "solve"]
