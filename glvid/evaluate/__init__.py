"""How good a run is, by the protocols of the literature; alone, or as a whole benchmark."""

from glvid.evaluate.suite import NAMES, benchmark, scored

__all__ = ["NAMES", "benchmark", "scored"]
