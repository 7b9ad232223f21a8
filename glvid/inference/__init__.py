"""The whole way of one clip. job: what travels · decode: first pass · write: second pass · clip: all of it, in order"""

from glvid.inference.clip import run, run_folder
from glvid.inference.job import InferOptions, Report, selected

__all__ = ["InferOptions", "Report", "run", "run_folder", "selected"]
