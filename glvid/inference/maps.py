"""Arrays in files, so that what is kept of a long clip needs no memory."""

import mmap
import tempfile
import weakref
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import numpy as np

EVERY = 0.25  # s between two times that pages are given back
LITTLE = 500_000_000  # bytes of arrays, all together, that are left alone


class Maps:
    """Memory-mapped arrays of a run, in nameless files of its folder that are gone when the arrays are.

    The system lends memory to pages of a file that were looked at, and takes it back when it runs short of it; but
    until then a process looks as large as all it ever saw, and in a container that counts. So, as a context, pages of
    long clips are given back all the time: they stay in the file, and the next look at them takes a little longer.
    """

    def __init__(self, folder: Path, every: float = EVERY, little: int = LITTLE) -> None:
        self.folder, self.every, self.little = folder, every, little
        self.known: list[weakref.ref] = []
        self.over, self.thread = Event(), Thread(target=self._relieve, name="glvid-maps", daemon=True)

    def __enter__(self) -> "Maps":
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()

    def store(self, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """Zeros."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return self.kept(np.memmap(file, kind, "w+", shape=shape))

    def kept(self, array: np.memmap) -> np.memmap:
        """A mapped array, remembered as long as it lives."""
        self.known = [ref for ref in self.known if ref() is not None] + [weakref.ref(array)]
        return array

    def release(self) -> None:
        """Give the pages of all arrays back."""
        if hasattr(mmap, "MADV_DONTNEED"):  # of a shared mapping it loses nothing, whoever writes meanwhile
            for array in [ref() for ref in self.known]:
                if array is not None:
                    array._mmap.madvise(mmap.MADV_DONTNEED)

    def _relieve(self) -> None:
        while not self.over.wait(self.every):
            if sum(array.nbytes for array in [ref() for ref in self.known] if array is not None) > self.little:
                self.release()
