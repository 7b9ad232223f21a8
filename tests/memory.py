"""Resident memory of `glvid infer` against the length of a clip: a film of ten hours, one frame in 288 of it.

python tests/memory.py [--long 3000] [--short 300] [--width 96] [--small] [-- options of glvid infer]

The film is the demo clip to and fro, over and over, at `--width`; `--short` frames are its beginning. Memory is sampled
while either runs; the larger peak must lie within 10 % of the smaller one. `--small` lets networks and refinement work
at 96 px instead of 384, which takes a twentieth of the time and has next to nothing but Python and torch in memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

DEMO = Path(__file__).parents[1] / "assets/demo.mp4"
RATE, STRIDE = 24, 288  # frames a second; one in twelve seconds: four frames on in the loop of 142
SMALL = "from glvid import predict; predict.working_size.__defaults__ = (96, 32, 7 / 12); "
RUN = "from glvid.cli import main; main()"


def film(path: Path, frames: int, width: int) -> Path:
    """A loop of the demo clip, coded once, its packets written again and again until there are so many frames."""
    with av.open(str(DEMO)) as demo:
        there = [frame.to_ndarray(format="rgb24") for frame in demo.decode(video=0)]
    height = 2 * round(width * there[0].shape[0] / there[0].shape[1] / 2)
    loop = [cv2.resize(x, (width, height), interpolation=cv2.INTER_AREA) for x in (*there, *there[-2:0:-1])]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"bf": "0", "preset": "ultrafast", "tune": "fastdecode"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, RATE)
        coded = []
        for n, picture in enumerate(loop):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, RATE)
            coded += stream.encode(frame)
        coded += stream.encode()
        kept = [(bytes(packet), packet.is_keyframe) for packet in coded]
        for n in range(frames):
            data, key = kept[n % len(kept)]
            packet = av.Packet(data)
            packet.pts = packet.dts = n
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, RATE), stream, key
            out.mux(packet)
    return path


def resident(pid: int) -> dict[str, float]:
    """MB of a process in memory: its own, and pages of files."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "RssAnon", "RssFile"):
            found[key] = int(value.split()[0]) / 1024
    return found


def measured(words: list[str]) -> tuple[float, list[tuple[float, dict[str, float]]]]:
    """Seconds that a command takes, and its memory over time."""
    samples, since = [], time.monotonic()
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            try:
                samples.append((time.monotonic() - since, resident(process.pid)))
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    return time.monotonic() - since, [sample for sample in samples if "VmRSS" in sample[1]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", type=int, default=3000)
    parser.add_argument("--short", type=int, default=300)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("options", nargs="*", default=["--refine", "output"])
    asked = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as place:
        clip = film(Path(place) / "loop.mp4", asked.long * STRIDE, asked.width)
        hours = asked.long * STRIDE / RATE / 3600
        print(f"{hours:.1f} h, {asked.long * STRIDE} frames, {clip.stat().st_size / 1e6:.0f} MB", flush=True)
        for frames in (asked.short, asked.long):
            words = [sys.executable, "-c", (SMALL if asked.small else "") + RUN, "infer", str(clip), "--quiet"]
            words += ["-o", f"{place}/run-{frames}", "--stride", str(STRIDE), "--end", str(frames * STRIDE / RATE)]
            seconds, samples = measured([*words, *asked.options])
            top = max(samples, key=lambda sample: sample[1]["VmRSS"])
            peaks[frames] = top[1]["VmRSS"]
            thirds = [max(x["VmRSS"] for _, x in part) for part in np.array_split(np.array(samples, object), 6)]
            said = ", ".join(f"{name} {value:.0f}" for name, value in top[1].items())
            print(f"{frames} frames: {seconds:.0f} s; peak after {top[0]:.0f} s: {said} MB; ", end="")
            print(f"by sixths of the time: {', '.join(f'{x:.0f}' for x in thirds)}", flush=True)
    ratio = peaks[asked.long] / peaks[asked.short]
    print(f"{asked.long} frames take {100 * (ratio - 1):+.1f} % of what {asked.short} take")
    return int(not ratio < 1.1)


if __name__ == "__main__":
    sys.exit(main())
