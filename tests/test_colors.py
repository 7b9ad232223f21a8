"""Colours: the published circle, fixed ranges, unknown is black."""

import cv2
import numpy as np
import pytest

from glvid.colors import Range, color_range, color_wheel, depth_colors, flow_colors, panel_size, preview_frame


def test_wheel_has_55_colours_with_the_published_corners():
    wheel = color_wheel()
    assert wheel.shape == (55, 3)
    corners = [wheel[k].tolist() for k in (0, 15, 21, 25, 36, 49)]
    assert corners == [[255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255], [255, 0, 255]]
    assert wheel[1].tolist() == [255, 17, 0]  # floor(255 / 15)
    assert wheel[16].tolist() == [213, 255, 0]  # 255 - floor(255 / 6)


@pytest.mark.parametrize(
    ("flow", "color"),
    [
        ((1, 0), (255, 0, 0)),  # right: red
        ((0, 1), (255, 233, 0)),  # down: 13.75 of 15 steps from red to yellow
        ((-1, 0), (0, 197, 255)),  # left: 2.5 of 11 steps from cyan to blue
        ((0, -1), (102, 0, 255)),  # up: 5.25 of 13 steps from blue to magenta
        ((0, 0), (255, 255, 255)),
        ((0.5, 0), (255, 127, 127)),
        ((3, 0), (191, 0, 0)),  # out of range: darker
        ((np.nan, 0), (0, 0, 0)),
    ],
)
def test_flow_colors_of_known_directions(flow, color):
    found = flow_colors(np.float32(flow)[:, None, None], 1.0)[0, 0].astype(int)
    assert np.abs(found - color).max() <= 1


def test_flow_colors_have_no_seam():
    angle = np.linspace(0, 2 * np.pi, 3601)
    colors = flow_colors(np.stack([np.cos(angle), np.sin(angle)])[:, None] * 0.999, 1.0)[0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 3


def test_depth_colors_are_inferno_of_inverse_depth():
    depth = np.float32([[1, 2, 4, 100, 0.1, np.nan, np.inf]])
    levels = np.uint8([[255, round(255 / 3), 0, 0, 255, 0, 0]])
    expected = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    expected[0, 5] = 0
    assert np.array_equal(depth_colors(depth, 1.0, 4.0), expected)


def test_color_range_ignores_what_is_not_finite():
    depth = np.concatenate([np.linspace(1, 10, 1000), [np.nan, np.inf, -1, 0]])
    limits = color_range(depth, np.concatenate([np.linspace(0, 5, 1000), [np.nan]]))
    assert 1 < limits.near < 1.3 and 13 < limits.far < 15.1 and limits.flow == pytest.approx(4.9, abs=0.01)
    flat = color_range(np.full(10, 2.0), np.zeros(10))
    assert flat.near < flat.far and flat.flow == 1
    assert color_range(np.full(3, np.nan), np.empty(0)) == Range(1.0, 1.5, 1.0)


@pytest.mark.parametrize(
    ("size", "panel"),
    [((640, 360), (640, 360)), ((1280, 720), (640, 360)), ((161, 121), (160, 120)), ((720, 1280), (640, 1138))],
)
def test_preview_is_even_and_not_wider_than_full_hd(size, panel):
    assert panel_size(size) == panel
    w, h = size
    frame = preview_frame(np.full((h, w, 3), 7, np.uint8), np.full((h, w), 2.0), None, Range(1.0, 4.0, 5.0))
    assert frame.shape == (panel[1], 3 * panel[0], 3) and frame.dtype == np.uint8
    assert (frame[:, : panel[0]] == 7).all() and (frame[:, 2 * panel[0] :] == 0).all()
    moved = preview_frame(
        np.zeros((h, w, 3), np.uint8), np.full((h, w), 2.0), np.zeros((2, h, w)), Range(1.0, 4.0, 5.0)
    )
    assert (moved[:, 2 * panel[0] :] == 255).all()
