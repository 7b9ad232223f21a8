"""glvid: depth, optical flow, camera path, intrinsics and a point cloud from any video.

`glvid.infer(path)` carries out a run and gives its `glvid.Run`; `glvid.open_run(folder)` opens one. See glvid/api.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "infer", "open_run"]

if TYPE_CHECKING:
    from glvid.api import Run, infer, open_run


def __getattr__(name: str) -> Any:
    """What `glvid.api` has, when it is asked for: importing it takes torch, and `glvid --help` shall not."""
    if name in __all__:
        return getattr(import_module("glvid.api"), name)
    raise AttributeError(f"module 'glvid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
