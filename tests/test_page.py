"""The report: it says what the run says, nothing can break out of it, and a browser shows all of it."""

import json
import re
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import page as browser
from room import Room, room, write_run

from glvid import video
from glvid.errors import OutputError
from glvid.page import pictures, plots, write_page
from glvid.page.document import chosen, page
from glvid.page.marks import element
from glvid.results import PREVIEW, RunFolder, open_run

EMPTY = {"meta", "img", "br"}  # elements that have no end
QUALITY = {
    "reprojection_px": [0.25, 0.5, None, 0.125, 0.25, 0.75],
    "static": [0.9, 0.91, 0.92, 0.93, 0.94, 0.95],
    "scale": [1.0, 1.1, 0.9, 1.0, 1.05, 0.95],
    "confidence": [0.5, 0.6, 0.7, 0.8, 0.7, 0.6],
}
FACTS = {
    "quality": QUALITY,
    "command": "glvid infer clip.mp4 --refine output -o clip.glvid",
    "refine": {"mode": "output", "steps": 3, "loss_first": 0.4, "loss_last": 0.3, "curve": [0.4, 0.35, 0.32, 0.3]},
    "seconds": {"decode": 1.5, "predict": 2.25, "solve": 8.0, "refine": 4.0, "write": 2.0, "total": 17.75},
    "warnings": ["no parallax at the end", "2 frames were dark"],
}


class Markup(HTMLParser):
    """What a page holds: every element with its attributes, and its text; complains of what is not closed in turn."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    def named(self, tag: str, kind: str = "") -> list[dict]:
        """Attributes of all elements of a name and a class."""
        return [a for t, a in self.elements if t == tag and kind in ("", *(a.get("class") or "").split())]


@pytest.fixture(scope="module")
def truth() -> Room:
    return room(size=(480, 360))


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> RunFolder:
    """Six frames of a room, with what a refined run says."""
    return changed(write_run(tmp_path_factory.mktemp("runs") / "room.glvid", truth), **FACTS)


@pytest.fixture(scope="module")
def markup(run) -> Markup:
    return Markup(page(run))


def changed(run: RunFolder, **facts) -> RunFolder:
    """The run with other entries in its run.json."""
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(info | facts))
    return open_run(run.path)


def decoded(uri: str) -> np.ndarray:
    """The picture of a data: URI."""
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)


# ---------------------------------------------------------------- what it says


def test_the_facts_are_those_of_the_run(run, markup):
    said = markup.said()
    for fact in (
        "clip.mp4", "6 of 480\u00d7360 px", "960\u00d7720 px, 30 frames a second", "432.0 px of the maps",
        "864.0 px of the source", "58.1\u00b0", "given by you; observable in this clip", "0.728 m", "truth",
        "output: loss 0.4 \u2192 0.3 (\u221225 %) after 3 steps",
        "18 s in all, 2.96 s a frame", "cpu, networks in fp32",
        "no parallax at the end", "2 frames were dark", "0" * 64, "Apache-2.0",
        "glvid infer clip.mp4 --refine output -o clip.glvid", "max-size 1280", "median 0.25 px", "Good",
        f"glvid view {run.path}", f"glvid export {run.path} --to ",
    ):  # fmt: skip
        assert fact in said, fact
    poses = run.trajectory().world_T_cam[:, :3, 3]
    assert np.linalg.norm(np.diff(poses, axis=0), axis=1).sum() == pytest.approx(0.728, abs=5e-4)
    assert 2 * np.degrees(np.arctan(240 / 432)) == pytest.approx(58.1, abs=0.05)


def test_uncertainty_is_said_in_maps_source_and_degrees(run):
    camera = run.camera | {"fx_sigma": 10.0, "source": "solved", "observable": False}
    said = Markup(page(RunFolder(run.path, run.info | {"camera": camera}, camera, run.rows, run.numbers))).said()
    assert "432.0 \u00b1 10.0 px of the maps, 864.0 \u00b1 20.0 px of the source" in said
    degrees = 2 * np.degrees(np.arctan(240 / 432) - np.arctan(240 / 442))
    assert f"58.1\u00b0 \u00b1 {degrees:.1f}" in said and "not observable" in said
    assert "Fair Shape and path fit" in said and "give --intrinsics" in said


def test_plots_hold_the_values_of_every_frame(markup):
    names = ["Reprojection error", "Static share", "Scale of the network", "Confidence"]
    plotted = {p["aria-label"]: p for p in markup.named("svg", "plot")}
    for name, (key, factor) in zip(
        names, {"reprojection_px": 1, "static": 100, "scale": 1, "confidence": 100}.items(), strict=True
    ):
        values = [float(v) if v else None for v in plotted[name]["data-y"].split(",")]
        assert values == [v if v is None else pytest.approx(factor * v) for v in QUALITY[key]]
        assert plotted[name]["data-x"] == "0,1,2,3,4,5"
    assert plotted["objective of depth and poses"]["data-y"] == "0.4,0.35,0.32,0.3"
    heights = [float(v) for v in plotted["Height over the way"]["data-y"].split(",")]
    assert heights == pytest.approx([0.02 * k for k in range(6)], abs=1e-4)
    speeds = [float(v) for v in plotted["Speed over time"]["data-y"].split(",")]
    assert speeds == pytest.approx([30 * np.hypot(0.12, np.hypot(0.02, 0.08))] * 5, rel=1e-3)


def numbers(d: str) -> np.ndarray:
    """Points (N, 2) of the `d` of an SVG path."""
    return np.array(re.findall(r"-?\d+\.\d+", d), float).reshape(-1, 2)


def test_the_path_has_all_poses_and_one_scale(markup):
    (way,) = markup.named("path", "way")
    drawn, true = numbers(way["d"]), np.array([(0.12 * k, 0.08 * k) for k in range(6)])
    assert drawn.shape == (6, 2)
    scale = (drawn[-1, 0] - drawn[0, 0]) / (true[-1, 0] - true[0, 0])
    assert np.allclose((drawn - drawn[0]) * (1, -1), scale * true, atol=0.02)
    (start,), (end,) = markup.named("circle", "start"), markup.named("circle", "end")
    assert [float(start["cx"]), float(start["cy"])] == drawn[0].tolist()
    assert [float(end["cx"]), float(end["cy"])] == drawn[-1].tolist()
    (ruler,) = markup.named("path", "ruler")
    length = float(re.search(r"h(\d+\.\d+)", ruler["d"])[1])
    assert length == pytest.approx(0.2 * scale, abs=0.02) and "0.2 m" in markup.said()


def test_bars_are_as_long_as_the_seconds(markup):
    widths = [float(bar["width"]) for bar in markup.named("rect", "bar")]
    assert np.array(widths) / widths[2] * 8.0 == pytest.approx([1.5, 2.25, 8.0, 4.0, 2.0], abs=0.01)


def test_pictures_are_those_of_the_frames(run, truth, markup):
    shown = markup.named("img", "thumbnail")
    assert Counter(a["alt"].split()[0] for a in shown) == {"image": 6, "depth": 6, "flow": 5, "mask": 6}
    found = [decoded(a["src"]) for a in shown]
    assert all(picture.shape == (180, 240, 3) for picture in found)
    small = cv2.resize(truth.images[0], (240, 180), interpolation=cv2.INTER_AREA)
    assert np.abs(found[0][..., ::-1].astype(float) - small).mean() < 6
    orange = cv2.resize(truth.moving[0], (240, 180), interpolation=cv2.INTER_AREA) > 0.99
    mask = decoded(next(a["src"] for a in shown if a["alt"].startswith("mask")))
    assert (mask[orange][:, 2].astype(int) > mask[orange][:, 0] + 60).all()
    (film,) = markup.named("video")
    assert b64decode(film["src"].partition(",")[2]) == (run.path / PREVIEW).read_bytes()
    poster = decoded(film["poster"])
    assert poster.shape == (240, 960, 3)
    small = cv2.resize(truth.images[0], (320, 240), interpolation=cv2.INTER_AREA)
    assert np.abs(poster[:, :320, ::-1].astype(float) - small).mean() < 8


def test_one_range_of_depth_for_the_clip(run, markup):
    limits = pictures.color_limits(run)
    marks = [float(m) for m in pictures.depth_marks(limits)]
    assert marks[0] == pytest.approx(limits.near, rel=0.01) and marks[-1] == pytest.approx(limits.far, rel=0.01)
    assert np.diff(1 / np.array(marks)) == pytest.approx([(1 / limits.far - 1 / limits.near) / 4] * 4, rel=0.05)
    assert all(f"{m:.3g}" in markup.said() for m in marks) and "depth, m" in markup.said()


# ---------------------------------------------------------------- safe and whole


def test_nothing_is_asked_of_the_network(run, markup):
    source = page(run)
    assert "http:" not in source and "https:" not in source and "@import" not in source and "url(" not in source
    links = [value for _, a in markup.elements for key, value in a.items() if key in ("src", "href", "poster", "data")]
    assert links and all(link.startswith("data:") for link in links)
    (policy,) = [a["content"] for a in markup.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert source == page(run)


BAD = '"><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">\'\n&lt;</title></style>.mp4'


@pytest.fixture(scope="module")
def hostile(truth, tmp_path_factory) -> RunFolder:
    """A run all of whose words want to be markup, in a folder that does."""
    run = write_run(tmp_path_factory.mktemp("runs") / "<b>'a' \"&.glvid", truth)
    info = FACTS | {
        "input": run.info["input"] | {"path": BAD, "lost": [[BAD, 2]]},
        "warnings": [BAD, BAD],
        "models": {BAD: {"name": BAD, "licence": BAD, "sha256": BAD}},
        "command": BAD,
        "options": {BAD: BAD},
        "device": BAD,
        "glvid": BAD,
    }
    frames = (run.path / "frames.csv").read_text().splitlines()
    quoted = '"' + BAD.replace('"', '""') + '"'
    frames = [frames[0]] + [line.replace(",,", f",{quoted},", 1) for line in frames[1:]]
    (run.path / "frames.csv").write_text("\n".join(frames) + "\n")
    return changed(run, **info)


def test_names_stay_names(hostile, markup):
    assert hostile.rows[0].name == BAD
    found = Markup(page(hostile))
    assert Counter(tag for tag, _ in found.elements)["script"] == 1
    expected = Counter(tag for tag, _ in markup.elements)
    assert Counter(tag for tag, _ in found.elements) - expected <= Counter({"dt": 1, "dd": 1, "div": 1})  # what is lost
    assert not [key for _, a in found.elements for key in a if key.startswith("on")]
    assert found.said().count("window.hacked") >= 8


def test_marks_escape():
    assert element("p", "x", title="\"<&>'", hidden=True, lang=None) == (
        '<p title="&quot;&lt;&amp;&gt;&#x27;" hidden>x</p>'
    )


@pytest.mark.parametrize("keep", [(), ("depth",), ("flow", "mask"), ("image",), ("depth", "image")], ids=",".join)
def test_runs_that_kept_less(tmp_path, keep):
    small = room(frames=3)
    run = write_run(tmp_path / "a", small, keep=(*keep, "depth"))  # the fused cloud of the fixture needs depth
    rows = tuple(
        type(r)(
            r.index,
            r.time_s,
            r.name,
            **{k: getattr(r, k) if k in keep else "" for k in ("depth", "flow", "mask", "image")},
        )
        for r in run.rows
    )
    found = Markup(page(RunFolder(run.path, run.info, run.camera, rows, run.numbers)))
    assert {a["alt"].split()[0] for a in found.named("img", "thumbnail")} == set(keep)
    assert ("No maps were stored" in found.said()) == (not keep)
    assert bool(found.named("video")) == (run.path / PREVIEW).is_file()


def test_one_frame(tmp_path):
    run = changed(write_run(tmp_path / "a", room(frames=1)), quality={k: v[2:3] for k, v in QUALITY.items()})
    found = Markup(page(run))
    assert "One frame" in found.said() and "all poses are the same" in found.said() and "nothing known" in found.said()
    assert len(found.named("img", "thumbnail")) == 3


def test_shots_are_drawn_apart(tmp_path):
    run = changed(write_run(tmp_path / "a", room(), shots=(2, 5)), quality=QUALITY)
    found = Markup(page(run))
    assert [len(numbers(p["d"])) for p in found.named("path", "way")] == [2, 3]
    assert "The camera rests in shot 2." in found.said() and "3 shots" in found.said()
    assert len(found.named("line", "cut")) == 2 * 4
    both = changed(run, refine=FACTS["refine"] | {"mode": "both", "curve": [4.0, 3.0, 0.4, 0.3]})
    labels = [p["aria-label"] for p in Markup(page(both)).named("svg", "plot")]
    assert labels[-2:] == ["objective of network parameters", "objective of depth and poses"]


def test_an_older_run_and_some_of_a_run(tmp_path, run):
    old = write_run(tmp_path / "a", room(frames=2))
    said = Markup(page(old)).said()
    assert "made before glvid kept it" in said and "None was asked for" in said
    some = run.only([1, 2, 5])
    assert chosen(some, "reprojection_px") == [0.5, None, 0.75]
    assert len(numbers(Markup(page(some)).named("path", "way")[0]["d"])) == 3


@pytest.mark.parametrize("data", [b"", b"no film"])
def test_a_broken_preview_costs_the_preview_only(tmp_path, data):
    run = write_run(tmp_path / "a.glvid", room(2))
    (run.path / "preview.mp4").write_bytes(data)
    write_page(run, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "It cannot be shown" in text and "<video" not in text
    assert "Camera path" in text


def test_a_preview_that_is_too_large_is_shortened(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 192, 3), np.uint8)
    run = write_run(tmp_path / "a", room(frames=40, size=(64, 48)))
    video.write_video(run.path / PREVIEW, iter(noise), 20.0)
    size = (run.path / PREVIEW).stat().st_size
    assert pictures.film(run, size).step == 1
    film = pictures.film(run, size // 8)
    data = b64decode(film.uri.partition(",")[2])
    assert len(data) <= size // 8 and film.smaller and film.step > 2
    (tmp_path / "short.mp4").write_bytes(data)
    clip = video.probe(tmp_path / "short.mp4")
    assert clip.frames == -(-40 // film.step) and (clip.width, clip.height) == (96, 32)
    assert film.faster == pytest.approx(clip.fps * film.step / 20, rel=0.01) and clip.fps >= 8
    assert pictures.film(run, 200) is None


def test_the_page_is_written_whole_or_not_at_all(run, tmp_path):
    write_page(run, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == page(run)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_page(run, tmp_path / "file" / "report.html")


# ---------------------------------------------------------------- plots


@pytest.mark.parametrize(
    "value, said",
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.12345, "0.1235"),
        (123456.0, "123456"),
        (-2.5, "\u22122.5"),
        (1.5e-6, "1.500e\u221206"),
    ],
)
def test_number(value, said):
    assert plots.number(value) == said


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-0.3, 0.2), (0.031, 0.0345), (5.0, 5e6), (1e-7, 3e-7)])
def test_ticks_are_round_and_inside(low, high):
    found = plots.ticks(low, high, 5)
    values = [value for value, _ in found]
    assert 2 <= len(found) <= 6 and low - 1e-12 <= values[0] and values[-1] <= high + 1e-12 * high
    assert len({label for _, label in found}) == len(found)
    assert [float(label.replace("\u2212", "-")) for _, label in found] == pytest.approx(values)


def test_thinning_keeps_outliers():
    values = [1.0] * 10_000
    values[777], values[5000:5010] = 50.0, [None] * 10
    found, step = plots.thinned(values, 1000)
    assert len(found) == 1000 and step == 10 and found[77] == 50.0 and found[500] is None
    assert plots.thinned([], 5) == ([], 1)


def test_gaps_lift_the_pen():
    assert plots.points([(0, 0), (1, 1), None, (2, 2)]) == "M0.00 0.00L1.00 1.00M2.00 2.00"


# ---------------------------------------------------------------- in a browser


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_all_of_it(run, tmp_path, width):
    write_page(run, tmp_path / "report.html")
    with browser(width, 900) as (tab, trouble):
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_function("document.querySelector('video').readyState >= 1", timeout=10_000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        sizes = tab.evaluate(
            "[...document.querySelectorAll('img.thumbnail')].map(i => [i.naturalWidth, i.naturalHeight])"
        )
        assert len(sizes) == 23 and all(size == [240, 180] for size in sizes)
        assert tab.evaluate("document.querySelector('video').videoWidth") == 1440
        drawings = tab.locator("svg").all()
        assert len(drawings) == 9
        for drawing in drawings:
            picture = shown(drawing)
            assert picture.shape[1] > 0.75 * min(width, 500)
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # a line, its grid, letters
            assert has_color(picture, (36, 96, 214))
        assert not trouble
        assert tab.title() == "clip.mp4 \u2013 glvid report"


def shown(place) -> np.ndarray:
    """Screenshot of a part of a page, (H, W, 3) RGB."""
    return cv2.imdecode(np.frombuffer(place.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Are there some pixels very much like it?"""
    return (np.abs(picture.astype(int) - color).max(-1) < 40).sum() > 20


def test_the_pointer_asks_for_values_and_moves_the_preview(run, tmp_path):
    write_page(run, tmp_path / "report.html")
    with browser(1280, 900) as (tab, trouble):
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_function("document.querySelector('video').readyState >= 1", timeout=10_000)
        plot = tab.locator("svg[aria-label='Reprojection error']")
        box = plot.bounding_box()
        step = (plots.WIDTH - plots.LEFT - plots.RIGHT) / 5
        for frame, said in ((3, "frame 3: 0.125 px"), (2, "frame 2: unknown"), (0, "frame 0: 0.25 px")):
            at = (plots.LEFT + frame * step) / plots.WIDTH * box["width"]
            plot.hover(position={"x": at + 3, "y": 60})
            assert plot.locator("text.said").text_content() == said
        plot.click(position={"x": (plots.LEFT + 4 * step) / plots.WIDTH * box["width"], "y": 60})
        time, length = tab.evaluate("(v => [v.currentTime, v.duration])(document.querySelector('video'))")
        assert time == pytest.approx(4.5 / 6 * length, abs=0.01)
        assert not trouble


def test_a_hostile_run_is_harmless_in_a_browser(hostile, tmp_path):
    write_page(hostile, tmp_path / "report.html")
    with browser(390, 900) as (tab, trouble):
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_timeout(300)
        assert tab.evaluate("window.hacked") is None and not trouble
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert "<script>window.hacked" in tab.locator("dl").text_content()


def test_were_a_name_to_break_out_the_policy_would_stop_it(run, tmp_path):
    attack = "<script>window.hacked = 1</script><img src='https://example.org/x.png' onerror='window.hacked = 2'>"
    (tmp_path / "report.html").write_text(page(run).replace("<h1>", "<h1>" + attack, 1), encoding="utf-8")
    with browser(1280, 900) as (tab, trouble):
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_timeout(300)
        assert tab.evaluate("window.hacked") is None
        assert sum("Content Security Policy" in said for said in trouble) >= 2


def test_dark_and_print_are_readable(run, tmp_path):
    write_page(run, tmp_path / "report.html")
    with browser(1280, 900) as (tab, _):
        tab.goto(Path(tmp_path / "report.html").as_uri())
        for media, color, dark in (("screen", "dark", True), ("screen", "light", False), ("print", "dark", False)):
            tab.emulate_media(media=media, color_scheme=color)
            picture = shown(tab.locator("#key"))
            assert (np.median(picture) < 60) == dark and picture.std() > 10
