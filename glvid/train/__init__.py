"""Training: stages `flow` and `depth` (with the camera) learn from rendered truth, depth also from what geometry finds
out about real clips (`lessons`); `joint` learns from real footage by the self-supervised objective, with rendered truth
replayed so that nothing is forgotten.

The output folder: `log.jsonl` (one object a step), `checkpoints/`, `weights/` (running means of the parameters, with
cards), `options.toml`, `pool/` (rendered pairs), `frames/` (decoded footage), `lessons/` (solved), `split.json`,
`cameras.json`. Nothing is written elsewhere.
"""

from glvid.train.loop import Watcher, train
from glvid.train.options import Options, configured, from_values

__all__ = ["Options", "Watcher", "configured", "from_values", "train"]
