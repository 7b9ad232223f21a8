"""Which recordings of KITTI raw are for training: Eigen's split (Eigen et al. 2014), all, or a list in a file."""

from collections.abc import Callable, Iterable
from pathlib import Path

from glvid.errors import UsageError
from glvid.types import Recording

EIGEN = Path(__file__).parent / "eigen_test.txt"


def read_frames(path: Path) -> dict[str, list[int]]:
    """Frame numbers by drive, from lines `drive: 0 3 6`, or `day/drive 6 l` as SfMLearner and Monodepth2 write them.

    A drive alone stands for all its frames (an empty list). Raises UsageError where the file cannot be read or is none.
    """
    found: dict[str, list[int]] = {}
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise OSError("no regular file")
        for line in path.read_text(encoding="utf-8").splitlines():
            drive, *numbers = line.replace(":", " ").split() or ["#"]
            if not drive.startswith("#"):
                sides = [n for n in numbers if n not in ("l", "r")]
                found.setdefault(drive.split("/")[-1], []).extend(int(n) for n in sides)
        return found
    except (OSError, ValueError) as error:
        advice = "lines are `drive: 0 3 6` or `day/drive 6 l`"
        raise UsageError(f"cannot read the split in {path}: {error}; {advice}") from error


def eigen_test() -> dict[str, list[int]]:
    """Eigen's 697 test frames by drive."""
    return read_frames(EIGEN)


def drive_of(recording: Recording) -> str:
    """Name of a KITTI drive, as lists give it."""
    return recording.name.split("/")[0]


def training(recordings: Iterable[Recording], split: str | None, note: Callable[[str], None]) -> list[Recording]:
    """What may be learned from. Of KITTI raw: all drives but those of the test list (`eigen`, the default), `all`, or
    the drives of a file; anything else that was found stays.

    Where the default leaves nothing at all, all of it is taken, and that is said.
    """
    found = list(recordings)
    raw = [r for r in found if r.kind == "KITTI raw"]
    if not raw or split == "all":
        return found
    if split in (None, "eigen"):
        tested = eigen_test()
        kept = [r for r in found if r.kind != "KITTI raw" or drive_of(r) not in tested]
        if not kept and split is None:
            note("every drive is of Eigen's test list: trained on all the same; results on that list mean nothing")
            return found
        note(
            f"split eigen: {len(raw) - sum(r.kind == 'KITTI raw' for r in kept)} of {len(raw)} drives left for testing"
        )
        return kept
    wanted = read_frames(Path(split))
    kept = [r for r in found if r.kind != "KITTI raw" or drive_of(r) in wanted]
    note(f"split {split}: {sum(r.kind == 'KITTI raw' for r in kept)} of {len(raw)} drives are listed")
    return kept


def listed_frames(recording: Recording, split: str | None) -> set[int] | None:
    """Which pictures of a KITTI drive, by their place, a split in a file names; None: all of them."""
    if recording.kind != "KITTI raw" or split in (None, "eigen", "all"):
        return None
    numbers = set(read_frames(Path(split)).get(drive_of(recording), []))
    return {k for k, picture in enumerate(recording.pictures) if int(picture.stem) in numbers} if numbers else None
