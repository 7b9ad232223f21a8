"""Collages: their flow is exact, what is hidden is known, and every kind of piece turns up."""

import cv2
import numpy as np
import pytest

from glvid.synthetic.collage import Piece, collage, composed, motion, moved, outline, photos, streaked

SIZE = (160, 96)


def smooth(seed, size=SIZE):
    """A picture without fine texture, so that resampling hardly changes it."""
    cells = np.random.default_rng(seed).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    return cv2.resize(cells, size, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def carried(made):
    """The second frame brought to the first by the flow."""
    y, x = np.mgrid[: made.a.shape[0], : made.a.shape[1]].astype(np.float32)
    return cv2.remap(made.b, x + made.flow[..., 0], y + made.flow[..., 1], cv2.INTER_LINEAR)


@pytest.mark.parametrize("seed", range(6))
def test_flow_leads_to_the_same_colours_where_it_is_visible(seed):
    textures = [smooth(k, (320, 200)) for k in range(4)]
    made = collage(np.random.default_rng(seed), SIZE, textures)
    apart = np.abs(carried(made).astype(int) - made.a).max(-1)
    around = np.ones((3, 3), np.uint8)
    steps = (cv2.dilate(made.flow, around) - cv2.erode(made.flow, around)).max(-1)
    inner = (cv2.erode(made.visible, around) > 0) & (steps < 0.5)  # at an edge two colours mix
    assert np.percentile(apart[inner], 95) <= 6
    assert made.visible.mean() > 0.3 and np.isfinite(made.flow).all()


def shift(x, y):
    out = np.eye(3)
    out[:2, 2] = x, y
    return out


def test_a_square_that_moves_over_a_background_at_rest():
    cover = np.zeros((20, 20), np.uint8)
    cover[2:-2, 2:-2] = 255
    ground, square = smooth(0), np.full((20, 20, 3), 255, np.uint8)
    pieces = [Piece(ground, None, (0, 0), np.eye(3), 0.0), Piece(square, cover, (40, 30), shift(12, -6), 0.0)]
    made = composed(np.random.default_rng(0), pieces, SIZE)
    on = np.zeros(SIZE[::-1], bool)
    on[32:48, 42:58] = True
    assert (made.flow[on] == [12, -6]).all() and (made.flow[~on] == 0).all()
    assert (made.a[on] == 255).all() and (made.b[26:42, 54:70] == 255).all()
    hidden = np.zeros_like(on)
    hidden[26:42, 54:70] = True
    assert ((made.visible == 0) == (hidden & ~on)).all()  # ground that the square comes to cover


def test_what_leaves_the_picture_has_flow_but_is_not_visible():
    made = composed(np.random.default_rng(0), [Piece(smooth(1), None, (0, 0), shift(30, 0), 0.0)], SIZE)
    assert (made.flow == [30, 0]).all()
    assert (made.visible[:, :130] == 1).all() and (made.visible[:, 130:] == 0).all()


def test_a_bent_background_carries_its_bend_into_the_flow():
    """Bent in the first frame, flat in the second: flow varies, and still leads to the same colours."""
    piece = Piece(smooth(2), None, (0, 0), motion(np.random.default_rng(1), (80, 48), 0.4, 2.0), 3.0)
    made = composed(np.random.default_rng(3), [piece], SIZE)
    x, y = np.meshgrid(np.arange(160) + 0.5, np.arange(96) + 0.5)
    plain = np.stack(moved(piece.motion, x, y), -1) - np.stack([x, y], -1)
    assert np.abs(made.flow - plain).max() > 0.5
    assert np.percentile(np.abs(carried(made).astype(int) - made.a).max(-1)[made.visible > 0], 95) <= 5


def test_same_seed_same_collage_and_another_seed_another():
    made = [collage(np.random.default_rng(k), SIZE, photos(None)) for k in (5, 5, 6)]
    for name in ("a", "b", "flow", "visible"):
        assert np.array_equal(getattr(made[0], name), getattr(made[1], name))
    assert not np.array_equal(made[0].a, made[2].a)


def test_outlines_cover_some_of_their_box_but_not_its_border():
    shares = []
    for seed in range(40):
        mask = outline(np.random.default_rng(seed), (50, 40))
        assert mask.shape == (40, 50)
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        shares.append((mask > 127).mean())
    assert np.mean(shares) > 0.25 and np.ptp(shares) > 0.5


def test_blur_runs_along_the_motion():
    """A vertical line that moves sideways is spread sideways, one that moves along itself is not."""
    line = np.zeros((40, 40, 3), np.uint8)
    line[:, 20] = 255
    across, along = (streaked(Piece(line, None, (0, 0), shift(*d), 0.0), 9).colours for d in ((16, 0), (0, 16)))
    assert (across[20, 17:24] > 0).all() and across[20, 20].max() < 100
    assert (along[20] == line[20]).all()


def test_photos_of_a_folder_are_found_deeply_and_shrunk(tmp_path):
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep/x.png"), np.full((800, 1280, 3), [0, 0, 200], np.uint8))
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    found = photos(tmp_path)
    assert [p.shape for p in found] == [(400, 640, 3)]
    assert (found[0] == [200, 0, 0]).all()  # RGB
