"""The command itself, and what its words mean."""

import typer

from glvid import __version__
from glvid.cli.options import Version
from glvid.cli.screen import emit

app = typer.Typer(invoke_without_command=True)


@app.callback()
def root(context: typer.Context, version: Version = False) -> None:
    """Depth, optical flow, camera path, intrinsics and a point cloud from any video."""
    if version:
        emit(f"glvid {__version__}")
    elif context.invoked_subcommand is None:
        emit(context.get_help())
        raise typer.Exit(2)
