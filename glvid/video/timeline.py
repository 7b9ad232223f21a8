"""When every frame of a stream was shown, and which frames never came out of the decoder. Knows nothing of PyAV."""

from collections.abc import Iterator
from dataclasses import dataclass

GAP = 1.6  # a pause of this many frame intervals means that a frame is missing


@dataclass(frozen=True)
class Lost:
    """Frames `first` to `last` (indices in the source, inclusive, estimated from time stamps) could not be decoded."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True)
class Note:
    """A sentence for the user about how the clip was read."""

    text: str


class Timeline:
    """Bookkeeping of one pass over a stream whose frames come in presentation order.

    A packet promises a frame at its stamp. A promise that later frames overtake is a lost frame if a decoder error
    or a pause in the frames backs it: codecs with invisible frames break promises all the time. Stamps are integers
    of `base` seconds; times are seconds and strictly increase.
    """

    def __init__(self, base: float, interval: float):
        self.base, self.interval = base, interval
        self.index = 0  # of the next frame
        self.time: float | None = None  # of the last frame
        self.end = 0.0  # when the last frame leaves the screen
        self.offset = 0.0  # added to stamps after they jumped back
        self.promised: set[int] = set()
        self.error = ""  # the last one not yet accounted for

    def time_of(self, stamp: int | None) -> tuple[float, str]:
        """Time of the next frame, and a remark where its own stamp could not be used."""
        if stamp is None:
            time = 0.0 if self.time is None else self.time + self.interval
            return time, f"the stream has no time stamps: {1 / self.interval:g} frames per second assumed"
        time = stamp * self.base + self.offset
        if self.time is None or time > self.time:
            return time, ""
        remark = "time stamps repeat or run backwards: times were made to increase"
        if time > self.time - 1:
            return self.time + self.interval / 10, remark
        self.offset += self.time + self.interval - time  # a new count began, as in files put end to end
        self.promised.clear()
        return self.time + self.interval, remark

    def missing_before(self, stamp: int | None, time: float) -> Iterator[Lost]:
        """What was lost between the last frame and the one shown at `time`."""
        late = {p for p in self.promised if stamp is not None and p < stamp}
        self.promised -= late | {stamp}
        intervals = 1.0 if self.time is None else (time - self.time) / self.interval
        if late and (self.error or intervals > GAP):
            yield from self._lost(max(len(late), round(intervals) - 1 if self.error else 0))
        elif self.error and intervals > GAP:
            yield from self._lost(round(intervals) - 1)

    def recount(self, promised: set[int]) -> Iterator[Lost]:
        """What was lost at the end of a count of stamps; `promised` are stamps of the next one."""
        if self.error:
            yield from self._lost(len(self.promised))
        self.promised, self.error = promised, ""

    def advance(self, time: float, duration: float) -> None:
        """The frame at `time` is out; it stays for `duration` seconds (0: unknown)."""
        self.index, self.time, self.end = self.index + 1, time, time + (duration or self.interval)

    def missing_after(self, end: float) -> Iterator[Lost]:
        """What was lost after the last frame: promised frames, or up to the declared `end` (s; 0 if not declared)."""
        pause = (end + self.offset - self.end) / self.interval if end and self.time is not None else 0.0
        missing = round(pause) if pause > GAP else 0
        if missing or self.error:
            self.error = self.error or "the file ends before its declared duration"
            yield from self._lost(max(missing, len(self.promised)))

    def _lost(self, count: int) -> Iterator[Lost]:
        if count:
            yield Lost(self.index, self.index + count - 1, self.error or "not decodable")
            self.index, self.error = self.index + count, ""
