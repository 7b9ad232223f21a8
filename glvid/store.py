"""Room for what is found out about a clip, row by row (a row is a frame): here in memory, `inference.work` has it in
files that outlive the process.

Whoever fills arrays writes a row, then marks it as done, and reads nothing that it overwrites: so that a process which
was killed at any moment can be followed by another that skips what is done, and ends with the same bits.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch

from glvid.parallel import each
from glvid.types import Intrinsics, Solution

T = TypeVar("T")
KINDS = {kind.__name__: kind for kind in (Intrinsics, Solution)}  # dataclasses that values may hold


class Store:
    """Arrays, marks of the rows that are done, and single values, by name. This one forgets all when it goes."""

    def array(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """An array whose first axis is the rows: zeros, or what was written under this name before."""
        return np.zeros(shape, kind)

    def done(self, name: str, rows: int) -> np.ndarray:
        """Which rows (bool) of whatever goes by this name are done; to be marked once they are."""
        return np.zeros(rows, bool)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` returns, now or when it was asked for before. It may hold what `packed` can pack."""
        return make()

    def keep(
        self, name: str, make: Callable[[], Any], written: Iterable[np.ndarray | BinaryIO] = (), last: bool = False
    ) -> None:
        """Remember what `make` returns, in place of what went by this name; not every time, but for the `last`. Arrays
        that it says are `written` will be there whenever it is."""

    def kept(self, name: str) -> Any | None:
        """What `keep` remembered last."""
        return None

    def under(self, name: str) -> "Store":
        """The same, where all names begin with this one."""
        return Under(self, name)


class Under(Store):
    """What `Store.under` returns."""

    def __init__(self, whole: Store, name: str) -> None:
        self.whole, self.name = whole, name

    def array(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
        """See `Store`."""
        return self.whole.array(f"{self.name}-{name}", shape, kind)

    def done(self, name: str, rows: int) -> np.ndarray:
        """See `Store`."""
        return self.whole.done(f"{self.name}-{name}", rows)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """See `Store`."""
        return self.whole.once(f"{self.name}-{name}", make)

    def keep(
        self, name: str, make: Callable[[], Any], written: Iterable[np.ndarray | BinaryIO] = (), last: bool = False
    ) -> None:
        """See `Store`."""
        self.whole.keep(f"{self.name}-{name}", make, written, last)

    def kept(self, name: str) -> Any | None:
        """See `Store`."""
        return self.whole.kept(f"{self.name}-{name}")


def fill(
    done: np.ndarray,
    rows: Iterable[int],
    work: Callable[[int], T],
    put: Callable[[int, T], None],
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """`put` what `work` finds for every one of `rows` that is not done, several at once, and mark it."""
    rows = list(rows)
    new = [n for n in rows if not done[n]]
    advance(len(rows) - len(new))
    for n, found in zip(new, each(work, new), strict=True):
        put(n, found)
        done[n] = True
        advance(1)


# ---------------------------------------------------------------- values as bytes


def digest(*values: Any) -> str:
    """A short name for values that `packed` can pack: the same for equal ones, on one machine."""
    return hashlib.sha256(packed(values)).hexdigest()[:16]


def packed(value: Any) -> bytes:
    """A value as bytes: None, bool, int, float, str, tensors, arrays, tuples, lists, dicts with str keys, and KINDS.

    SHA-256 of all that follows; 8 bytes: length of a JSON text; the text; the bytes of the arrays one after another.
    """
    arrays: list[np.ndarray] = []
    plain = _plain(value, arrays)
    text = json.dumps({"value": plain, "arrays": [[a.dtype.str, list(a.shape)] for a in arrays]}).encode()
    body = b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in arrays)])
    return hashlib.sha256(body).digest() + body


def unpacked(data: bytes) -> Any:
    """Inverse of `packed`. Raises ValueError for anything else, and for what is not whole any more."""
    body = memoryview(data)[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise ValueError("not a packed value, or a damaged one")
    try:
        end = 8 + int.from_bytes(body[:8], "little")
        head, arrays = json.loads(bytes(body[8:end])), []
        for kind, shape in head["arrays"]:
            dtype, count = np.dtype(kind), math.prod(shape)
            if dtype.kind not in "biuf" or count < 0 or end + count * dtype.itemsize > len(body):
                raise ValueError(f"an array of {kind} {shape}")
            arrays.append(np.frombuffer(body, dtype, count, end).reshape(shape).copy())
            end += count * dtype.itemsize
        return _whole(head["value"], arrays.__getitem__)
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a packed value ({error})") from error


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = isinstance(value, torch.Tensor)
        arrays.append(np.ascontiguousarray(value.detach().cpu().numpy() if tensor else value).reshape(value.shape))
        return {"tensor" if tensor else "array": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"tuple": [_plain(x, arrays) for x in value]}
    if isinstance(value, list):
        return [_plain(x, arrays) for x in value]
    if isinstance(value, dict):
        return {"dict": {key: _plain(x, arrays) for key, x in value.items()}}
    if is_dataclass(value):
        return {type(value).__name__: {f.name: _plain(getattr(value, f.name), arrays) for f in fields(value)}}
    return value


def _whole(facts: Any, array: Callable[[int], np.ndarray]) -> Any:
    if isinstance(facts, list):
        return [_whole(x, array) for x in facts]
    if not isinstance(facts, dict):
        return facts
    ((kind, value),) = facts.items()
    match kind:
        case "tensor":
            return torch.from_numpy(array(value))
        case "array":
            return array(value)
        case "tuple":
            return tuple(_whole(x, array) for x in value)
        case "dict":
            return {key: _whole(x, array) for key, x in value.items()}
    return KINDS[kind](**{key: _whole(x, array) for key, x in value.items()})
