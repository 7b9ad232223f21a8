"""Arrays in files, so that what is kept of a long clip needs no memory."""

import mmap
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

EVERY = 256  # frames of progress between two times that pages are given back


class Maps:
    """Memory-mapped arrays of a run, in nameless files of its folder that are gone when the arrays are.

    The system lends memory to pages of a file that were looked at, and takes it back when it runs short of it; but
    until then a process looks as large as all it ever saw, and in a container that counts. So pages are given back now
    and then: they stay in the file, and nothing but the next look at them takes longer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.known, self.frames = folder, [], 0

    def store(self, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """Zeros."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return self.kept(np.memmap(file, kind, "w+", shape=shape))

    def kept(self, array: np.memmap) -> np.memmap:
        """A mapped array, remembered as long as it lives."""
        self.known.append(weakref.ref(array))
        return array

    def release(self) -> None:
        """Give the pages of all arrays back."""
        self.known = [ref for ref in self.known if ref() is not None]
        for array in [ref() for ref in self.known]:
            if array is not None and hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)

    def relieving(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance`, with `release` every EVERY frames."""

        def advanced(n: int) -> None:
            advance(n)
            self.frames += n
            if self.frames >= EVERY:
                self.frames = 0
                self.release()

        return advanced
