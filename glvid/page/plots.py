"""Plots as inline SVG: lines over frames, a path from above, bars. Numbers in, markup out; colours are the style's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glvid.page.marks import element, text

WIDTH, HEIGHT = 420, 190  # of a line plot, in units of its view box
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # its margins
MOST = 1500  # points of a line
FEW = 40  # points that are marked one by one
MARGIN = 48  # round a path
TALLEST = 300  # of a path
WEDGE = 15  # length of a camera's field of view
WEDGES = 12  # of a path


# ---------------------------------------------------------------- numbers


def number(value: float, digits: int = 4) -> str:
    """So many digits, for people."""
    size = abs(value)
    if size and not 1e-4 <= size < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "\u2212")
    decimals = 0 if size == 0 else max(0, digits - 1 - math.floor(math.log10(size)))
    said = f"{value:.{decimals}f}"
    return (said.rstrip("0").rstrip(".") if "." in said else said).replace("-", "\u2212")


def round_step(width: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides `width` into at most `most` parts."""
    raw = width / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= raw * (1 - 1e-9))


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round values within low..high, at most `most` + 1 of them, and their labels."""
    step = round_step(high - low, most)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(k * step, f"{k * step:.{decimals}f}".replace("-", "\u2212")) for k in range(first, last + 1)]


def thinned(values: Sequence[float | None], most: int = MOST) -> tuple[list[float | None], int]:
    """At most `most` of the values, evenly spaced, and how far apart; each stands for those up to the next one, and is
    the one farthest from the middle of all, so that no outlier is lost."""
    step = -(-len(values) // most) or 1
    known = sorted(v for v in values if v is not None)
    middle = known[len(known) // 2] if known else 0.0
    groups = [[v for v in values[k : k + step] if v is not None] for k in range(0, len(values), step)]
    return [max(group, key=lambda v: abs(v - middle)) if group else None for group in groups], step


@dataclass(frozen=True)
class Axis:
    """Values low..high, laid over first..last of a picture."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def points(pairs: Sequence[tuple[float, float] | None]) -> str:
    """The `d` of an SVG path through the pairs; None lifts the pen."""
    commands, pen = [], "M"
    for pair in pairs:
        if pair is not None:
            commands.append(f"{pen}{pair[0]:.2f} {pair[1]:.2f}")
        pen = "M" if pair is None else "L"
    return "".join(commands)


# ---------------------------------------------------------------- lines


@dataclass(frozen=True)
class Curve:
    """What a line plot shows. None is a gap; low and high are where its axis at least reaches, if given."""

    title: str
    x: Sequence[float]
    y: Sequence[float | None]
    x_name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    cuts: Sequence[float] = ()  # x at which a new shot begins
    reference: float | None = None  # a y that is marked
    frames: bool = False  # x counts frames, so the preview can be moved there


def limits(values: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    """Ends of an axis on which all values lie, with some room where the end is not given."""
    ends = [*values, *(x for x in (low, high) if x is not None)] or [0.0, 1.0]
    least, most = min(ends), max(ends)
    room = 0.06 * (most - least) or 0.06 * abs(most) or 0.5
    return (least if least == low else least - room), (most if most == high else most + room)


def line_plot(curve: Curve) -> str:
    """A line over x, with axes; one point is a dot. The script shows values under the pointer."""
    marked = [] if curve.reference is None else [curve.reference]
    known = [*marked, *(v for v in curve.y if v is not None)]
    least, most = (min(curve.x), max(curve.x)) if curve.x else (0.0, 1.0)
    x = Axis(least, most if most > least else least + 1, LEFT, WIDTH - RIGHT)
    y = Axis(*limits(known, curve.low, curve.high), HEIGHT - BOTTOM, TOP)
    drawn = [None if v is None else (x.at(u), y.at(v)) for u, v in zip(curve.x, curve.y, strict=True)]
    parts = [axes(x, y, curve), *(rule(x.at(cut), curve) for cut in curve.cuts)]
    if curve.reference is not None:
        at = y.at(curve.reference)
        parts.append(element("line", class_="reference", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{at:.2f}", y2=f"{at:.2f}"))
    parts += [element("path", class_="line", d=points(drawn)), *dots(drawn)]
    if not any(drawn):
        parts.append(element("text", "nothing known", class_="none", x=WIDTH / 2, y=HEIGHT / 2))
    return element("svg", "".join(parts), class_="plot", **frame(curve.title, WIDTH, HEIGHT), **hints(curve, x, y))


def frame(title: str, width: float, height: float) -> dict[str, object]:
    """Attributes of an SVG picture."""
    return {"viewBox": f"0 0 {width:g} {height:.6g}", "role": "img", "aria_label": title}


def hints(curve: Curve, x: Axis, y: Axis) -> dict[str, object]:
    """What the script needs to say which value lies under the pointer."""
    rows = {"x": [f"{v:.6g}" for v in curve.x], "y": ["" if v is None else f"{v:.4g}" for v in curve.y]}
    spans = {name: f"{a.low:.9g} {a.high:.9g} {a.first:g} {a.last:g}" for name, a in (("u", x), ("v", y))}
    listed = {f"data_{name}": ",".join(values) for name, values in rows.items()}
    said = {"data_name": curve.x_name, "data_unit": curve.unit, "data_frames": curve.frames}
    return listed | {f"data_{name}": said_ for name, said_ in spans.items()} | said


def axes(x: Axis, y: Axis, curve: Curve) -> str:
    """Grid, numbers, and the name of x."""
    parts = []
    for value, label in ticks(y.low, y.high, 4):
        at = f"{y.at(value):.2f}"
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at))
        parts.append(element("text", label, class_="y", x=LEFT - 6, y=f"{y.at(value) + 4:.2f}"))
    for value, label in ticks(x.low, x.high, 6) if len(curve.x) > 1 else [(x.low, number(x.low))]:
        if curve.x_name in ("frame", "step") and value != int(value):
            continue
        parts.append(element("text", label, class_="x", x=f"{x.at(value):.2f}", y=HEIGHT - BOTTOM + 15))
    parts.append(element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM))
    return "".join(parts) + element("text", text(curve.x_name), class_="name", x=WIDTH - RIGHT, y=HEIGHT - 4)


def rule(at: float, curve: Curve) -> str:
    """Where a new shot begins."""
    return element(
        "line", element("title", "cut"), class_="cut", x1=f"{at:.2f}", x2=f"{at:.2f}", y1=TOP, y2=HEIGHT - BOTTOM
    )


def dots(drawn: Sequence[tuple[float, float] | None]) -> list[str]:
    """Marks on the points, where they are few or stand alone."""
    alone = [
        p
        for k, p in enumerate(drawn)
        if p and (len(drawn) <= FEW or not (any(drawn[max(0, k - 1) : k]) or any(drawn[k + 1 : k + 2])))
    ]
    return [element("circle", class_="dot", cx=f"{p[0]:.2f}", cy=f"{p[1]:.2f}", r=2.2) for p in alone]


# ---------------------------------------------------------------- a path from above


@dataclass(frozen=True)
class Path2D:
    """A camera's way seen from above: positions, the way it looks at each (unit vectors), half its field of view."""

    title: str
    places: Sequence[tuple[float, float]]  # right, forward
    looks: Sequence[tuple[float, float]]
    half_view: float  # rad
    unit: str


def path_plot(path: Path2D) -> str:
    """Right is right and forward is up, both to one scale; start and end are marked, the grid's width is stated."""
    left, right = min(p[0] for p in path.places), max(p[0] for p in path.places)
    back, ahead = min(p[1] for p in path.places), max(p[1] for p in path.places)
    width, depth = right - left, ahead - back
    scale = min((WIDTH - 2 * MARGIN) / max(width, 1e-9), TALLEST / max(depth, 1e-9))
    tall = max(40.0, depth * scale)
    middle = (left + right) / 2, (back + ahead) / 2
    step = round_step((WIDTH - 2 * MARGIN) / scale, 5)

    def at(p: tuple[float, float]) -> tuple[float, float]:
        return WIDTH / 2 + (p[0] - middle[0]) * scale, MARGIN + tall / 2 - (p[1] - middle[1]) * scale

    height = tall + 2 * MARGIN + 18
    parts = [grid(at((0.0, 0.0)), step * scale, height - 34), *wedges(path, at)]
    parts.append(element("path", class_="line way", d=points([at(p) for p in path.places])))
    parts += ends(at(path.places[0]), at(path.places[-1]))
    parts.append(
        ruler(step * scale, height, f"{number(step)} {path.unit.replace('units', 'unit') if step == 1 else path.unit}")
    )
    return element("svg", "".join(parts), class_="above", **frame(path.title, WIDTH, height))


def grid(origin: tuple[float, float], step: float, height: float) -> str:
    """Squares, counted from the first camera."""
    lines = []
    for start, side in ((origin[0], WIDTH), (origin[1], height)):
        lines.append([start % step + k * step for k in range(int((side - start % step) / step) + 1)])
    upright = [f"M{x:.2f} 0V{height:.2f}" for x in lines[0]]
    return element("path", class_="grid", d="".join(upright + [f"M0 {y:.2f}H{WIDTH}" for y in lines[1]]))


def wedges(path: Path2D, at: Callable[[tuple[float, float]], tuple[float, float]]) -> list[str]:
    """The field of view at some places."""
    chosen = sorted({round(k * (len(path.places) - 1) / (WEDGES - 1)) for k in range(WEDGES)})
    shapes = []
    for k in chosen:
        (x, y), (right, ahead) = at(path.places[k]), path.looks[k]
        corners = [
            (x + WEDGE * (right * c + ahead * s), y - WEDGE * (ahead * c - right * s))
            for c, s in ((math.cos(a), math.sin(a)) for a in (-path.half_view, path.half_view))
        ]
        shapes.append(element("path", class_="wedge", d=points([(x, y), *corners]) + "Z"))
    return shapes


def ends(start: tuple[float, float], end: tuple[float, float]) -> list[str]:
    """Marks of start and end, their names on the sides that are turned away from each other."""
    parts, left = [], start[0] <= end[0]
    for name, (x, y), away in (("start", start, left), ("end", end, not left)):
        parts.append(element("circle", class_=name, cx=f"{x:.2f}", cy=f"{y:.2f}", r=4.5))
        side = "before" if away else "after"
        parts.append(element("text", name, class_=side, x=f"{x + (-9 if away else 9):.2f}", y=f"{y + 4:.2f}"))
    return parts


def ruler(length: float, height: float, label: str) -> str:
    """How long a grid square is."""
    y, x = height - 14, 12
    bar = element("path", class_="ruler", d=f"M{x} {y - 4:.2f}V{y + 4:.2f}M{x} {y:.2f}h{length:.2f}m0 -4v8")
    return bar + element("text", text(label), class_="after", x=f"{x + length + 8:.2f}", y=f"{y + 4:.2f}")


# ---------------------------------------------------------------- bars


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """A horizontal bar for every (name, value, label), the longest over the whole width."""
    most, start, end, step = max((value for _, value, _ in rows), default=0) or 1, 78, WIDTH - 70, 26
    parts = []
    for k, (name, value, label) in enumerate(rows):
        y, width = k * step, (end - start) * value / most
        parts.append(element("text", text(name), class_="y", x=start - 8, y=y + 17))
        parts.append(element("rect", class_="bar", x=start, y=y + 5, width=f"{max(width, 1):.2f}", height=16, rx=2))
        parts.append(element("text", text(label), class_="after", x=f"{start + width + 7:.2f}", y=y + 17))
    return element("svg", "".join(parts), class_="bars", **frame(title, WIDTH, step * len(rows) + 4))
