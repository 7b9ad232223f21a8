"""`python -m glvid.train OPTIONS.toml [--resume]`: training where the command line's packages are missing."""

import sys
from dataclasses import replace
from pathlib import Path

from glvid.errors import GlvidError
from glvid.train import Options, Watcher, configured, train

if __name__ == "__main__":
    try:
        watcher = Watcher(note=lambda text: sys.stdout.write(f"{text}\n") and None)
        given = configured(Path(sys.argv[1]), Options())
        train(replace(given, resume="--resume" in sys.argv[2:]), watcher)
    except GlvidError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
