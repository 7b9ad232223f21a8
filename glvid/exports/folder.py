"""A folder that an export fills: who may write there, what has been written, and how it is taken away again.

An export is made in a hidden folder beside its own, and gets its name when it is whole. `export.json` lists every file;
of folders that bear their final name, only what such a list names is ever removed.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glvid import __version__
from glvid.claim import is_alive
from glvid.errors import OutputError, UsageError
from glvid.files import atomic_write, cannot_write
from glvid.formats import leads_inside, read_json, reading

MANIFEST = "export.json"
SCHEMA = "glvid-export/1"
_STAGE = re.compile(r"\.glvid-(\d+)-export-.+")


def replaceable(folder: Path, overwrite: bool) -> list[str]:
    """Files of a former export that a new one takes the place of; none where the folder is absent or empty.

    Raises UsageError where anything else lies there, or an export and `overwrite` is not given.
    """
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        raise UsageError(f"{folder}: exists and is no folder; choose another place with -o")
    there, ours = found(folder), [MANIFEST, *listed(folder)] if (folder / MANIFEST).is_file() else []
    foreign = [name for name in there if name not in set(ours)]
    if foreign:
        raise UsageError(f"{folder}: holds what no export of glvid wrote ({foreign[0]}); choose another place with -o")
    if there and not overwrite:
        raise UsageError(f"{folder}: holds an export; use --overwrite to replace it, or another -o")
    return ours


@contextmanager
def staged(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder to write in, which takes the place of `folder` in the end, or is removed when that fails.

    Those that killed exports left behind are removed, too. Raises what `replaceable` does, OutputError.
    """
    stage = folder.parent / f".glvid-{os.getpid()}-export-{folder.name}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for path in folder.parent.iterdir():
            killed = _STAGE.fullmatch(path.name)
            if killed and not path.is_symlink() and (path == stage or not is_alive(int(killed[1]))):
                removed(path, found(path))  # our own number may have been another's before: containers count anew
        stage.mkdir()
        yield stage
        removed(folder, replaceable(folder, overwrite))
        os.rename(stage, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except OutputError as error:  # of a file that would have got its place in the folder
        raise OutputError(str(error).replace(str(stage), str(folder))) from error
    finally:
        removed(stage, found(stage))


def listed(folder: Path) -> list[str]:
    """The files of a former export, as far as they lie in its folder. Raises InputError for a damaged list."""
    record = read_json(folder / MANIFEST)
    with reading(folder / MANIFEST):
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        names = [str(name) for name in record["files"]]
    return [name for name in names if os.path.lexists(folder / name) and leads_inside(folder, name)]


def removed(folder: Path, names: list[str]) -> None:
    """Removes these files, then the folders that are empty, `folder` too."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    inside = [path for path in folder.rglob("*") if path.is_dir()] if folder.is_dir() else []
    for path in sorted([folder, *inside], reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def found(folder: Path) -> list[str]:
    """All files in a folder, by their paths in it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def finished(folder: Path, about: dict[str, Any]) -> list[str]:
    """Writes `export.json`: `about`, and the files, which it returns. Raises OutputError."""
    files = found(folder)
    record = {"schema": SCHEMA, "glvid": __version__, **about, "files": files}
    atomic_write(folder / MANIFEST, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(), sync=True)
    return files
