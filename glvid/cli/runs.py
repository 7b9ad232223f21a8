"""Commands on finished runs: exports, the viewer, the report."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glvid.cli.app import app
from glvid.cli.options import Debug, Json, MaxPoints, Overwrite, Quiet, Run, ScaleFrom, To
from glvid.cli.screen import emit, say
from glvid.errors import UsageError
from glvid.files import stem

if TYPE_CHECKING:
    from glvid.results import RunFolder


def opened(run: Path, scale_from: str | None = None) -> "RunFolder":
    """A finished run, in metres where `scale_from` says how."""
    from glvid import metric, results

    folder = results.open_run(run)
    return folder if scale_from is None else metric.in_metres(folder, scale_from)


def free(path: Path, overwrite: bool, beginning: bytes) -> Path:
    """The same path. Raises UsageError where something is there that may not be replaced: with `overwrite`, all but
    files that begin as ours do."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file with -o")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path}: exists; use --overwrite to replace it, or another -o")
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            if file.read(len(beginning)) != beginning:
                raise UsageError(f"{path}: is no such file as glvid writes; move it away, or give another -o")
    return path


@app.command("export-ply")
def export_ply(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file.", show_default="<run stem>.ply")] = None,
    mesh: Annotated[bool, typer.Option("--mesh", help="A TSDF mesh instead of points.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Drop outliers, add normals (Open3D).")] = False,
    max_points: MaxPoints = 2_000_000,
    scale_from: ScaleFrom = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A point cloud or a mesh of a finished run, as a PLY file."""
    from glvid import exports

    path = free(out or Path(f"{stem(run)}.ply"), overwrite, b"ply")
    count = exports.export_ply(opened(run, scale_from), path, mesh, clean, max_points)
    say(f"{path}: {count} points", quiet)
    if json_:
        emit(json.dumps({"file": str(path), "points": count}, indent=2))


@app.command()
def export(
    run: Run,
    to: To,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where a folder for every format goes.")],
    frames: Annotated[str | None, typer.Option(metavar="A:B", help="Rows A to B - 1 of the run, from 0.")] = None,
    stride: Annotated[int, typer.Option(min=1, metavar="N", help="Every N-th of these.")] = 1,
    shot: Annotated[
        int | None, typer.Option(min=0, help="Frames of one shot.", show_default="the longest, where worlds differ")
    ] = None,
    scale_from: ScaleFrom = None,
    max_points: MaxPoints = 2_000_000,
    normals: Annotated[bool, typer.Option("--normals", help="ply: normals, and without outliers (Open3D).")] = False,
    mesh: Annotated[bool, typer.Option("--mesh", help="glb: a TSDF mesh instead of points.")] = False,
    exr_channel: Annotated[
        Literal["Z", "R", "Y"], typer.Option(help="exr: name of the channel; Z is black in some programs.")
    ] = "Z",
    png_step: Annotated[
        float | None,
        typer.Option(
            min=1e-9, help="png16, depth-video: depth of one count.", show_default="1 mm, or the run's in scene units"
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A finished run in the files of other programs: DIR/<format>/ each."""
    from glvid import exports

    options = exports.ExportOptions(frames, stride, shot, max_points, normals, mesh, exr_channel, png_step, overwrite)
    written = exports.export(
        opened(run, scale_from), to.split(","), out, options, lambda sentence: say(sentence, quiet)
    )
    if json_:
        emit(
            json.dumps({name: {"folder": str(out / name), "files": files} for name, files in written.items()}, indent=2)
        )
    for name, files in written.items():
        say(f"{out / name}: {len(files)} files", quiet)


@app.command()
def view(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets everybody in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; where it is taken, one of the next.")] = 8123,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser of this machine.")] = True,
    scale_from: ScaleFrom = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A finished run in the browser: cloud, path, depth, flow and what moves, along time. Ctrl-C ends it."""
    from glvid import viewer

    server = viewer.open_server(opened(run, scale_from), host, port)
    try:
        if json_:
            emit(json.dumps({"url": server.url}))
        say(f"{server.url}  (Ctrl-C ends it)", quiet)
        remote = "SSH_CONNECTION" in os.environ
        if remote:
            tunnel = f"ssh -L {server.port}:127.0.0.1:{server.port}"
            say(f"from your own machine: {tunnel} and the name of this one; then open that address there", quiet)
        if browser and not remote:
            typer.launch(server.url)
        server.serve_forever()
    finally:
        server.close()


@app.command()
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file.", show_default="<run stem>.html")] = None,
    scale_from: ScaleFrom = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """One HTML file that tells all about a finished run, and needs no network."""
    from glvid.page import BEGINNING, write_page

    path = free(out or Path(f"{stem(run)}.html"), overwrite, BEGINNING.encode())
    write_page(opened(run, scale_from), path)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB", quiet)
    if json_:
        emit(json.dumps({"file": str(path), "bytes": path.stat().st_size}, indent=2))
