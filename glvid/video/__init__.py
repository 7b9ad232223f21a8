"""Video files and image folders in, H.264 and lossless maps out. The only package that knows PyAV."""

from glvid.video.cuts import CUT, cut_score, is_cut
from glvid.video.read import decoders, frames, probe, stored_size
from glvid.video.timeline import Lost, Note
from glvid.video.write import join, write_gray16, write_video

__all__ = [
    "CUT",
    "Lost",
    "Note",
    "cut_score",
    "decoders",
    "frames",
    "is_cut",
    "join",
    "probe",
    "stored_size",
    "write_gray16",
    "write_video",
]
