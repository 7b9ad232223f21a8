"""What a run has found out so far, in files of its folder: what a process that was killed leaves to the next one.

Arrays are memory-mapped, so they need no memory, and what a process wrote into them outlives it, in the order in which
it was written, as long as the machine goes on. For what may happen to the machine, everything is sealed now and then:
flushed to disk, with the marks of what was done by then, to which a process after a restart goes back.
"""

import ctypes
import errno
import json
import mmap
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np

from glvid.claim import cleared
from glvid.errors import OutputError, UsageError
from glvid.files import atomic_write, cannot_write
from glvid.store import Store, packed, unpacked

T = TypeVar("T")

EVERY = 0.02  # s between two looks at what is resident: gigabytes a second can be read
LITTLE = 64_000_000  # bytes of files, more than after the last time, from which pages are given back
SEALED = 30.0  # s between two times that everything is flushed to disk
TRIMMED = 2.0  # s between two times that freed memory is given back
SHARE = 0.1  # of the time, at most, that goes into values which are replaced all the time
MANIFEST, SEALS = "manifest.json", "sealed.value"


class Work(Store):
    """The working files of a clip. As a context, it gives memory back and seals all the time, and seals at the end.

    `key` names what is computed and by what; files that were made under another key are removed at the start, others
    are gone on with (`continues`).
    """

    def __init__(self, folder: Path, key: dict[str, Any], every: float = EVERY, little: int = LITTLE) -> None:
        self.folder, self.every, self.little = folder, every, little
        self.arrays: dict[str, np.memmap] = {}
        self.saved: dict[str, tuple[float, float]] = {}  # when a value was kept, and how long that took
        self.lock = Lock()
        self.over = Event()
        self.thread = Thread(target=self._attend, args=(_resident(),), name="glvid-work", daemon=True)
        self.continues = _prepared(folder, key)

    def __enter__(self) -> "Work":
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if kind is not None:
            with suppress(OutputError):  # where the disk is full, that is what the run ends with
                self.seal()

    def array(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """See `Store`; in a file, whose room on the disk is taken at once: a full one kills who writes to a mapping.

        Raises OutputError where there is none.
        """
        with self.lock:
            if name not in self.arrays:
                path = self.folder / f"{name}.array"
                _allot(path, int(np.prod(shape)) * np.dtype(kind).itemsize)
                self.arrays[name] = np.memmap(path, kind, "r+", shape=shape)
            return self.arrays[name]

    def done(self, name: str, rows: int) -> np.ndarray:
        """See `Store`."""
        with self.lock:
            if name + ".done" not in self.arrays:
                path = self.folder / f"{name}.done"
                _allot(path, rows)
                self.arrays[name + ".done"] = np.memmap(path, bool, "r+", shape=(rows,))
            return self.arrays[name + ".done"]

    def read(self, path: Path, shape: tuple[int, ...], kind: type | str) -> np.memmap:
        """A file of this folder as an array that is not written to."""
        with self.lock:
            self.arrays[path.name] = np.memmap(path, kind, "r", shape=shape)
            return self.arrays[path.name]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """See `Store`."""
        value = self.kept(name)
        if value is None:
            value = make()
            atomic_write(self.folder / f"{name}.value", packed(value), sync=True)
        return value

    def keep(
        self, name: str, make: Callable[[], Any], written: Iterable[np.ndarray | BinaryIO] = (), last: bool = False
    ) -> None:
        """See `Store`; as often as it costs no more than SHARE of the time."""
        since, cost = self.saved.get(name, (0.0, 0.0))
        began = time.monotonic()
        if not last and began - since < cost / SHARE:
            return
        for file in written:
            _synced(self.folder, file)
        atomic_write(self.folder / f"{name}.value", packed(make()), sync=True)
        self.saved[name] = (time.monotonic(), time.monotonic() - began)

    def kept(self, name: str) -> Any | None:
        """See `Store`; None too where it was damaged."""
        path = self.folder / f"{name}.value"
        try:
            return unpacked(path.read_bytes()) if path.is_file() else None
        except (OSError, ValueError):
            return None

    def rows(self, first: int, last: int, frames: int) -> Store:
        """The same for frames first..last-1 of `frames` alone."""
        return Rows(self, first, last, frames)

    def seal(self) -> None:
        """Flush everything to disk, then note which rows were done before."""
        with self.lock:
            arrays = dict(self.arrays)
        marks = {name: np.array(array) for name, array in arrays.items() if name.endswith(".done")}
        for array in arrays.values():
            _synced(self.folder, array)
        atomic_write(self.folder / SEALS, packed(marks), sync=True)

    def release(self) -> None:
        """Give the pages of all arrays back to the system.

        It lends memory to pages of a file that were looked at, and takes it back when it runs short of it; but until
        then a process looks as large as all it ever saw, and in a container that counts.
        """
        if hasattr(mmap, "MADV_DONTNEED"):  # of a shared mapping it loses nothing, whoever writes meanwhile
            with self.lock:
                arrays = list(self.arrays.values())
            for array in arrays:
                array._mmap.madvise(mmap.MADV_DONTNEED)

    def remove(self) -> None:
        """Everything, once the run is complete."""
        self._leave()  # what it might yet seal would come back
        self.arrays.clear()
        cleared(self.folder)

    def _leave(self) -> None:
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()

    def _attend(self, least: int) -> None:
        sealed = trimmed = time.monotonic()
        while not self.over.wait(self.every):
            if _resident() > least + self.little:
                self.release()
                least = _resident()
            if time.monotonic() - trimmed > TRIMMED:
                _trim()
                trimmed = time.monotonic()
            if time.monotonic() - sealed > SEALED:
                with suppress(OutputError):  # the run itself will meet the full disk
                    self.seal()
                sealed = time.monotonic()


class Rows(Store):
    """Some rows of the arrays of a clip, those of one shot; files do not become more with the shots."""

    def __init__(self, whole: Work, first: int, last: int, frames: int) -> None:
        self.whole, self.slice, self.frames = whole, slice(first, last), frames

    def array(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """See `Store`."""
        return self.whole.array(name, (self.frames, *shape[1:]), kind)[self.slice]

    def done(self, name: str, rows: int) -> np.ndarray:
        """See `Store`."""
        return self.whole.done(name, self.frames)[self.slice]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """See `Store`."""
        return self.whole.once(f"{name}-{self.slice.start}", make)

    def keep(
        self, name: str, make: Callable[[], Any], written: Iterable[np.ndarray | BinaryIO] = (), last: bool = False
    ) -> None:
        """See `Store`."""
        self.whole.keep(f"{name}-{self.slice.start}", make, written, last)

    def kept(self, name: str) -> Any | None:
        """See `Store`."""
        return self.whole.kept(f"{name}-{self.slice.start}")


# ---------------------------------------------------------------- files


def _prepared(folder: Path, key: dict[str, Any]) -> bool:
    """Makes the folder ready; True where work of the same key is left in it, as far as it can be relied upon."""
    if folder.is_symlink():
        raise UsageError(f"{folder}: is a link, which glvid does not follow; remove it")
    key, boot = json.loads(json.dumps(key)), _boot()
    try:
        folder.mkdir(exist_ok=True)
        cleared(folder, all_of_them=False)
        folder.mkdir(exist_ok=True)  # it goes when nothing is left in it
        old = _manifest(folder)
        same = old.get("key") == key
        if not same:
            cleared(folder)
            folder.mkdir(exist_ok=True)
        elif old.get("boot") != boot or not boot:
            _restored(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    atomic_write(folder / MANIFEST, json.dumps({"key": key, "boot": boot}, indent=2).encode(), sync=True)
    return same


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _restored(folder: Path) -> None:
    """After a restart of the machine: only what was sealed is done."""
    path = folder / SEALS
    try:
        marks = unpacked(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        marks = {}
    for path in sorted(folder.glob("*.done")):
        path.unlink()
        if isinstance(marks.get(path.name), np.ndarray):
            path.write_bytes(marks[path.name].astype(bool).tobytes())


def _resident() -> int:
    """Bytes of files that are mapped into this process and in memory; 0 where the system does not say, and takes pages
    back by itself."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def _trim() -> None:
    """Lets the C library (glibc; others are left alone) give back what it keeps of freed memory: over hours, what is in
    use scatters over more and more of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _synced(folder: Path, written: np.ndarray | BinaryIO) -> None:
    try:
        written.flush()
        if not isinstance(written, np.ndarray):
            os.fsync(written.fileno())
    except OSError as error:
        raise cannot_write(folder, error) from error


def _boot() -> str:
    """Which start of the system this is; empty where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _allot(path: Path, size: int) -> None:
    """A file of so many bytes, zeros unless it was there. Raises OutputError, before anything is lost, where the disk
    has no room for it."""
    if path.is_file() and path.stat().st_size == size:
        return
    try:
        with open(path, "wb") as file:
            _reserve(file.fileno(), size)
    except OSError as error:
        with suppress(OSError):  # a folder, for one
            path.unlink(missing_ok=True)
        raise cannot_write(path, error, size) from error


def _reserve(file: int, size: int) -> None:
    """Room on the disk, not only a length."""
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:  # no such call, or none for this file system
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for start in range(0, size, 1 << 20):
            os.write(file, bytes(min(1 << 20, size - start)))
