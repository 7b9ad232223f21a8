"""Whole files or none: what is written has a temporary name until all of it is there. And what is said otherwise."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glvid.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)


LONGEST = 240  # bytes of a name, of the 255 that file systems take


def stem(path: Path) -> str:
    """Name of a file or folder without its suffix, also for `.` and `..`; never hidden, never an option, and so short
    that what glvid adds to it still makes a name."""
    whole = os.fsencode(Path(os.path.realpath(path)).stem.lstrip(".-") or "clip")
    return os.fsdecode(whole) if len(whole) <= LONGEST else whole[:LONGEST].decode(errors="ignore") or "clip"


@contextmanager
def published(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yields a temporary path in the same folder: renamed to `path` on success, removed on failure.

    Raises OutputError in place of any OSError (full, read-only, no permission); `size`: bytes it will take, if known.
    """
    temporary = path.with_name(f".glvid-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error, size, temporary) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes, sync: bool = False) -> None:
    """`data` under its final name, whole or not at all; `sync` waits for the disk. Raises OutputError."""
    _streamed(Path(path), (data,), sync, len(data))


def atomic_stream(path: Path, parts: Iterable[bytes], sync: bool = False) -> None:
    """The same of parts that are made one after another."""
    _streamed(Path(path), parts, sync, None)


def _streamed(path: Path, parts: Iterable[bytes], sync: bool, size: int | None) -> None:
    with published(path, size) as temporary:
        with open(temporary, "wb") as file:
            size = sum(file.write(part) for part in parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if temporary.stat().st_size != size:  # some network disks truncate without an error
            raise OSError(errno.EIO, "the file came out shorter than what was written")


def cannot_write(path: Path, error: Exception, size: int | None = None, part: Path | None = None) -> OutputError:
    """The OutputError that says which path could not be written, why, and what to do.

    `size`: bytes of the whole file, where that is known; `part`: a file, still there, that holds the beginning of it.
    """
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    said = [f"{path}: cannot be written: {reason}"]
    if number in (*FULL, errno.EFBIG):
        written = part.stat().st_size if part is not None and part.exists() else 0
        needs = f"needs about {volume(size)}" if size else f"needs more than {volume(written)}" if written else ""
        room = f"{volume(free_space(path) + written)} are free" if number == errno.ENOSPC else ""
        said += [", ".join(filter(None, (needs, room)))]
    if number in FULL:
        said += ["free some space, or store less (--keep, --max-size)"]
    elif number == errno.EFBIG:
        said += ["this disk, or a limit of this session (ulimit -f), takes no larger files: choose another with -o"]
    else:
        said += ["choose another place with -o"]
    return OutputError("; ".join(filter(None, said)))


def system_error(error: Exception) -> OSError:
    """The OSError behind what a library raises in its place, known by its words."""
    words = " ".join(str(error).split())
    for number in (*FULL, errno.EFBIG, errno.EROFS, errno.EACCES):
        if os.strerror(number) in words:
            return OSError(number, os.strerror(number))
    return OSError(0, words)


def free_space(path: Path) -> int:
    """Bytes free on the disk that holds a path, or will."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def volume(size: float) -> str:
    """A number of bytes for people: 812 kB, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
