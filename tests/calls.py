"""What a child of a batch may be given to do; imports nothing heavy, as every child imports it anew."""

import ctypes
import os
import signal
import time
from pathlib import Path

from glvid.errors import InputError

HOOK = """
import ctypes
import av
real = av.open
def opened(file, *args, **kwargs):
    if str(file).endswith("crash.mp4"):
        ctypes.string_at(0)
    return real(file, *args, **kwargs)
av.open = opened
"""  # a module `sitecustomize` with a decoder that crashes


def fine(name):
    return {"name": name, "process": os.getpid()}


def refused():
    raise InputError("bad.mp4: is\nno video")


def interrupted():
    raise KeyboardInterrupt


def crashed():
    ctypes.string_at(0)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def without_a_word():
    os._exit(3)


def begun(file: Path) -> None:
    """Says in a file that this process works, whole from the first moment that the file is there."""
    file.with_suffix(".part").write_text(f"{os.getpid()}")
    file.with_suffix(".part").rename(file)


def waiting(file: Path):
    """Goes on until a signal ends it, and says in a second file how many came."""
    begun(file)
    count = 0
    try:
        time.sleep(60)
    except BaseException:
        count += 1
        try:
            time.sleep(0.3)
        except BaseException:
            count += 1
        file.with_suffix(".ended").write_text(f"{count}")
        raise


def growing(file: Path):
    """Writes on and on."""
    begun(file)
    with open(file.with_suffix(".log"), "wb", 0) as log:
        while True:
            log.write(b".")
            time.sleep(0.01)
