"""Known errors: one line that says what, where and what to do, and the exit code that goes with it.

GlvidError            1
├── UsageError        2   bad option, unknown path, given camera or masks do not fit, output folder rules
├── InputError        3   unreadable, or holds no video
├── ModelError        4   weights refused
├── OutputError       5   cannot be written
└── MemoryExhausted   6   out of memory after retries
"""


class GlvidError(Exception):
    """Base of every error glvid raises on purpose; `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(GlvidError):
    """An option, path or given file is wrong."""

    exit_code = 2


class InputError(GlvidError):
    """The input cannot be read or holds no video."""

    exit_code = 3


class ModelError(GlvidError):
    """A weight file was refused: unknown name, wrong checksum, wrong architecture, not finite."""

    exit_code = 4


class OutputError(GlvidError):
    """The output cannot be written: read-only, disk full, not ours."""

    exit_code = 5


class MemoryExhausted(GlvidError):
    """Out of memory even after smaller batches were tried."""

    exit_code = 6
