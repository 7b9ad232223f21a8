"""A folder that an export fills: who may write there, what has been written, and how it is taken away again.

`export.json` is written last, and lists every file; only what such a list names is ever removed.
"""

import json
import os
from pathlib import Path
from typing import Any

from glvid import __version__
from glvid.errors import UsageError
from glvid.formats import atomic_write, cannot_write, reading

MANIFEST = "export.json"
SCHEMA = "glvid-export/1"


def claimed(folder: Path, overwrite: bool) -> None:
    """Makes sure that `folder` is free for an export: absent, empty, or, with `overwrite`, emptied of a former one.

    Raises UsageError where anything else lies there, OutputError when a former export cannot be removed.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: exists and is no folder; choose another place with -o")
    there, ours = found(folder), [MANIFEST, *listed(folder)] if (folder / MANIFEST).is_file() else []
    foreign = [name for name in there if name not in set(ours)]
    if foreign:
        raise UsageError(f"{folder}: holds what no export of glvid wrote ({foreign[0]}); choose another place with -o")
    if there and not overwrite:
        raise UsageError(f"{folder}: holds an export; use --overwrite to replace it, or another -o")
    removed(folder, ours)


def listed(folder: Path) -> list[str]:
    """The files of a former export, as far as they lie in its folder. Raises InputError for a damaged list."""
    with reading(folder / MANIFEST):
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if record.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        names, here = [str(name) for name in record["files"]], folder.resolve()
    return [name for name in names if (folder / name).resolve().is_relative_to(here)]


def removed(folder: Path, names: list[str]) -> None:
    """Removes files of ours, the list last, and folders that are empty then."""
    try:
        for name in [*(name for name in names if name != MANIFEST), MANIFEST]:
            (folder / name).unlink(missing_ok=True)
        parents = {parent for name in names for parent in (folder / name).parents if parent.is_relative_to(folder)}
        for parent in sorted(parents, reverse=True):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    except OSError as error:
        raise cannot_write(folder, error) from error


def found(folder: Path) -> list[str]:
    """All files in a folder, by their paths in it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def finished(folder: Path, about: dict[str, Any]) -> None:
    """Writes `export.json`: `about`, and the files. Raises OutputError."""
    record = {"schema": SCHEMA, "glvid": __version__, **about, "files": found(folder)}
    atomic_write(folder / MANIFEST, (json.dumps(record, indent=1) + "\n").encode(), sync=True)
