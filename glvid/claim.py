"""Who may write in a run folder: the contract's rules for a folder that exists, and one writer at a time.

Nothing is removed but what run.json or the journal of a run of ours names, and there is no recursive delete.
The lock file holds the pid of its owner; locks whose owner is dead are taken over.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from glvid import __version__
from glvid.errors import InputError, OutputError, UsageError
from glvid.files import atomic_write, cannot_write
from glvid.results import (
    CAMERA,
    FRAMES,
    INFO,
    JOURNAL,
    KINDS,
    LOCK,
    PREVIEW,
    REPORT,
    SCENE,
    SCHEMA,
    TRAJECTORY,
    WORK,
    read_info,
    write_info,
)

FRESH = 5  # s during which a lock without content is taken for one that is just being written
_TEMPORARY = re.compile(r"\.glvid-\d+-.+|\.preview\.mp4\.part")
_WORKING = re.compile(r"manifest\.json|[a-z0-9+.-]+\.(array|done|value|mp4)|\.glvid-\d+-.+|\..+\.part")
_MAP = re.compile(r"(depth|flow|mask|image)/[0-9]{6,}\.(png|flo|jpg)")


@contextmanager
def claimed(folder: Path, identity: dict[str, Any], resume: bool = False, overwrite: bool = False) -> Iterator[str]:
    """`prepare`, and `release` at the end whatever happens; yields "new", "resume" or "done".

    Where the clip or an option turns out to be wrong before a new run wrote anything, nothing is left of the run.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    verdict = prepare(folder, identity, resume, overwrite)
    try:
        yield verdict
    except (UsageError, InputError):
        if verdict == "new":
            _undo(folder, made)
        raise
    finally:
        if verdict != "done":
            release(folder)


def prepare(folder: Path, identity: dict[str, Any], resume: bool = False, overwrite: bool = False) -> str:
    """Makes the folder ours: "new" (run.json says "running"), "resume" (go on), "done" (nothing to do or touched).

    identity = {"input": ..., "options": ..., "models": ...}; a stored run is the same run when every entry given here
    equals its own, so leave out what does not change the result (--quiet). Raises UsageError where the contract says 2
    (not ours; interrupted without --resume; another run without --overwrite), OutputError when locked or not writable.
    """
    folder, identity = Path(folder), json.loads(json.dumps(identity))
    old = _judged(folder, identity, resume, overwrite)
    if old is not None and old["status"] != "running" and not overwrite:
        _sweep(folder)  # what a run left that was killed after its last word
        cleared(folder / WORK)
        return "done"
    with _empty_or_gone(folder):
        _claim(folder)
        try:
            _sweep(folder)
            if old is not None and resume and old["status"] == "running" and not _difference(old, identity):
                return "resume"
            if old is not None:
                _replace(folder, old, identity)
            else:
                write_info(folder, _started(identity))
        except OutputError:
            release(folder)
            raise
    return "new"


def _judged(folder: Path, identity: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """run.json of the run that is there, None for a fresh folder; raises where the rules forbid to write."""
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        raise UsageError(f"{folder}: exists and is no folder; choose another place with -o")
    _refuse(folder / LOCK)
    info = read_info(folder)
    if info is None:
        with _access(folder):
            names = sorted(path.name for path in folder.iterdir())
        foreign = [name for name in names if name not in (LOCK, JOURNAL, WORK) and not _TEMPORARY.fullmatch(name)]
        if foreign:
            raise UsageError(f"{folder}: holds what is no glvid run ({foreign[0]}); choose another folder with -o")
        return None
    difference = _difference(info, identity)
    if overwrite or (not difference and info["status"] != "running"):
        return info
    if difference:
        raise UsageError(f"{folder}: holds another run ({difference}); use --overwrite to replace it, or another -o")
    if not resume:
        raise UsageError(f"{folder}: holds an interrupted run; use --resume to go on, or --overwrite to start again")
    return info


def release(folder: Path) -> None:
    """Gives the folder free for other runs."""
    (folder / LOCK).unlink(missing_ok=True)


def _undo(folder: Path, made: list[Path]) -> None:
    """Removes run.json of a run that wrote nothing else but working files, and the folders that were made for it."""
    cleared(folder / WORK)
    if {path.name for path in folder.iterdir()} == {INFO, LOCK}:
        for name in (INFO, LOCK):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # no longer empty: someone else's
            for path in made:
                path.rmdir()


def _claim(folder: Path) -> None:
    with _access(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _acquire(folder / LOCK)


def _replace(folder: Path, old: dict[str, Any], identity: dict[str, Any]) -> None:
    """Removes what the old run is known to have written; noted first, removed after: a crash forgets nothing."""
    mine = _listed(folder, old)
    with _access(folder):
        atomic_write(folder / JOURNAL, "".join(path + "\n" for path in mine).encode())
        try:
            write_info(folder, _started(identity))
        except OutputError:
            if old["status"] != "running":  # the old run stays as it was
                (folder / JOURNAL).unlink(missing_ok=True)
            raise
        for path in (*mine, CAMERA, FRAMES, TRAJECTORY, PREVIEW, SCENE, REPORT):
            (folder / path).unlink(missing_ok=True)
    cleared(folder / WORK)


def cleared(work: Path, all_of_them: bool = True) -> None:
    """Removes the working files of a run, or only links, pipes and the like of such a name, which would lead a writer
    elsewhere or nowhere; what has no such name stays. Raises OutputError."""
    if not work.is_dir() or work.is_symlink():
        return
    with _access(work):
        for path in sorted(work.iterdir()):
            ours = _WORKING.fullmatch(path.name) and (path.is_symlink() or not path.is_dir())
            if ours and (all_of_them or path.is_symlink() or not path.is_file()):
                path.unlink(missing_ok=True)
        if not any(work.iterdir()):
            work.rmdir()


def _started(identity: dict[str, Any]) -> dict[str, Any]:
    return {"schema": SCHEMA, "status": "running", "glvid": __version__, **identity}


def _listed(folder: Path, info: dict[str, Any]) -> list[str]:
    """Maps that run.json or the journal names, as far as they look like ours and lie in a folder of ours."""
    rows = info.get("frames") if isinstance(info.get("frames"), list) else []
    names = [str(row.get(kind, "")) for row in rows if isinstance(row, dict) for kind in KINDS]
    if (folder / JOURNAL).is_file():
        names += (folder / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    return sorted(n for n in set(names) if _MAP.fullmatch(n) and not (folder / n).parent.is_symlink())


def _difference(info: dict[str, Any], identity: dict[str, Any]) -> str:
    """The first entry of `identity` that the stored run has otherwise, in words; empty when it is the same run."""
    for part, wanted in identity.items():
        stored = info.get(part)
        if not isinstance(wanted, dict) or not isinstance(stored, dict):
            if stored != wanted:
                return f"{part} differs"
            continue
        for key, value in wanted.items():
            if key not in stored or stored[key] != value:
                return f"{part} {key} is {stored.get(key)}, not {value}"
    return ""


def _sweep(folder: Path) -> None:
    """Removes temporary files that a killed run left behind."""
    with _access(folder):
        for place in (folder, folder / WORK, *(folder / kind for kind in KINDS)):
            for path in sorted(place.iterdir()) if place.is_dir() and not place.is_symlink() else ():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)


@contextmanager
def _empty_or_gone(folder: Path) -> Iterator[None]:
    """A folder that is made inside is gone again when that fails, unless it holds something."""
    fresh = not os.path.lexists(folder)
    try:
        yield
    except OutputError:
        if fresh:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _access(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error


# ---------------------------------------------------------------- one writer at a time


def _acquire(path: Path) -> None:
    """Creates the lock file. Raises OutputError when a living process holds it, or when it cannot be written."""
    for _ in range(2):  # the second time round after a dead owner's lock was removed
        try:
            with open(path, "x", encoding="ascii") as file:
                file.write(f"{os.getpid()} {_born(os.getpid())}\n")
            return
        except FileExistsError:
            _refuse(path)
            with _access(path):
                path.unlink(missing_ok=True)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
    raise _held(path, "another run")


def _refuse(path: Path) -> None:
    """Raises OutputError when a living process holds the lock."""
    try:
        words = path.read_text(encoding="ascii").split() if path.is_file() else ["none of ours"]
        age = time.time() - path.stat().st_mtime
    except (OSError, ValueError):  # no lock, or not one of ours
        return
    if words and re.fullmatch("[1-9][0-9]{0,8}", words[0]):
        if is_alive(int(words[0]), words[1] if len(words) > 1 else ""):
            raise _held(path, f"process {words[0]}")
    elif age < FRESH:
        raise _held(path, "another run")


def _held(path: Path, owner: str) -> OutputError:
    return OutputError(f"{path.parent}: {owner} is writing there; wait for it, or choose another folder with -o")


def is_alive(pid: int, born: str = "") -> bool:
    """Is it the process that wrote the lock? Containers reuse small pids at once, so its start time must agree too."""
    if os.name != "posix":
        return True  # no harmless way to ask there; the message names the folder that holds the lock
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, under another user
        return True
    return born in ("", _born(pid))


def _born(pid: int) -> str:
    """Start of the process in clock ticks since boot (proc(5), field 22 of stat); empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
