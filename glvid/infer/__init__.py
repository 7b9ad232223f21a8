"""The whole way of one clip. job: what travels · decode: first pass · write: second pass · clip: all of it, in order"""

from glvid.infer.clip import run
from glvid.infer.job import InferOptions, Report

__all__ = ["InferOptions", "Report", "run"]
