"""Arguments and options, by name: the same wherever they occur."""

from pathlib import Path
from typing import Annotated, Literal

import typer

EVERYTHING = "depth,flow,mask,image"

Inputs = Annotated[list[Path], typer.Argument(help="Video files or image folders.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Run folder; for several inputs, where they go.", show_default="<stem>.glvid"),
]
Refine = Annotated[Literal["none", "params", "output", "both"], typer.Option(help="Online refinement on this clip.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Refinement steps.", show_default="by mode")]
Intrinsics = Annotated[
    str | None, typer.Option(metavar="SPEC", help="Known camera: fx,fy,cx,cy in source pixels, fov=DEG or a JSON file.")
]
TemporalFilter = Annotated[
    bool, typer.Option("--temporal-filter", help="With refine output or both: average depth along flow.")
]
FixIntrinsics = Annotated[bool, typer.Option("--fix-intrinsics", help="Do not improve the given camera.")]
Distortion = Annotated[str | None, typer.Option(metavar="k1,k2,p1,p2[,k3]", help="Known lens distortion.")]
DepthModel = Annotated[
    str | None, typer.Option(metavar="NAME|PATH|hf:ID", help="Depth network.", show_default="shipped")
]
Flow = Annotated[
    Literal["net", "dis"], typer.Option(help="Optical flow: the network, or OpenCV's DIS, the better one so far.")
]
FlowFormat = Annotated[Literal["png", "flo"], typer.Option(help="Stored flow: KITTI 16-bit PNG or Middlebury .flo.")]
Masks = Annotated[Path | None, typer.Option(metavar="DIR", help="One image per frame, same file names; 255 = ignore.")]
MaskPolarity = Annotated[Literal["ignore", "keep"], typer.Option(help="What 255 in --masks means.")]
Keep = Annotated[str, typer.Option(metavar="LIST", help="Maps to store, of depth,flow,mask,image.")]
Start = Annotated[float | None, typer.Option(min=0, metavar="S", help="First second.")]
End = Annotated[float | None, typer.Option(min=0, metavar="S", help="Last second.")]
Stride = Annotated[int, typer.Option(min=1, metavar="N", help="Every N-th frame.")]
Fps = Annotated[float, typer.Option(min=0.001, help="Frame rate of an image folder; nothing else.")]
MaxSize = Annotated[int, typer.Option(min=32, metavar="PX", help="Long side of the stored maps, at most.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Arithmetic of the networks.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Kind = Annotated[
    Literal["handheld", "driving", "orbit", "drone", "walk", "static"] | None,
    typer.Option(help="Of rendered worlds: what is filmed, and how.", show_default="all"),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ray[:ADDRESS]",  # ray:10.0.0.1:6379, or ray://10.0.0.1:10001 for a client
        help="Many clips on many machines, by Ray; INPUT may be a list (.txt) or a folder of videos. Implies --resume.",
    ),
]
ClipCpus = Annotated[float, typer.Option(min=0.1, help="--engine: cores that a clip is given.")]
ClipGpus = Annotated[float, typer.Option(min=0, help="--engine: share of a GPU that a clip is given.")]
Retries = Annotated[int, typer.Option(min=0, help="--engine: times a clip is begun again whose worker died.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what glvid wrote before.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Lost frames are no failure.")]
ScaleFrom = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC", help="Metres from camera-height=M, distance=FRAME:x,y:M (px of the source) or path=FILE."
    ),
]
MaxPoints = Annotated[int, typer.Option(min=1, metavar="N", help="Points of the cloud, at most.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
FORMATS = "tum kitti colmap nerfstudio open3d ply mesh glb exr npy npz png16 flo depth-video rrd blender".split()


def completed(incomplete: str) -> list[str]:
    """What a shell may put for the beginning of a list of formats."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in FORMATS if name.startswith(last) and name not in before.split(",")]


To = Annotated[
    str,
    typer.Option(
        metavar="FORMAT[,FORMAT...]", help=f"Of {', '.join(FORMATS)}.", show_default=False, autocompletion=completed
    ),
]
Run = Annotated[Path, typer.Argument(help="Run folder that `glvid infer` wrote.", show_default=False)]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
