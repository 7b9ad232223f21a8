"""What users say about their clip: camera, distortion, masks."""

import json

import cv2
import numpy as np
import pytest
import torch

from glvid import given
from glvid.errors import UsageError
from glvid.types import Clip, Intrinsics

SIZE = (640, 360)


def test_four_numbers():
    K = given.intrinsics("500,510,320.5,180.25", SIZE)
    assert K.focal.tolist() == [500, 510] and K.center.tolist() == [320.5, 180.25] and K.size == SIZE


def test_field_of_view_is_horizontal():
    K = given.intrinsics("fov=90", SIZE)
    assert K.focal.tolist() == pytest.approx([320, 320]) and K.center.tolist() == [320, 180]


def test_camera_json_of_another_size_and_pixel_rule(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text(
        json.dumps({"fx": 250, "fy": 250, "cx": 159.5, "cy": 89.5, "width": 320, "height": 180, "pixel_center": 0})
    )
    K = given.intrinsics(str(path), SIZE)
    assert K.focal.tolist() == [500, 500] and K.center.tolist() == [320, 180]


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "1,2,3",
        "a,b,c,d",
        "500,500,nan,180",
        "fov=0",
        "fov=x",
        "5,5,320,180",
        "500,500,9999,180",
        "none.json",
        "1e9,1e9,1,1",
    ],
)
def test_wrong_cameras_are_refused(spec):
    with pytest.raises(UsageError, match="--intrinsics"):
        given.intrinsics(spec, SIZE)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"fx": 1}', '{"fx": 500, "fy": 500, "cx": 320, "cy": 240, "width": 640, "height": 480}']
)
def test_wrong_camera_files_are_refused(tmp_path, text):
    path = tmp_path / "camera.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="--intrinsics"):
        given.intrinsics(str(path), SIZE)


def test_rectifier_undoes_the_lens():
    """A grid seen through a distorting lens is straight again."""
    K = given.intrinsics("300,300,320,180", SIZE)
    k = np.array([-0.2, 0.05, 0.001, -0.002])
    rectify = given.rectifier("-0.2,0.05,0.001,-0.002", K)
    points = np.array([[200.5, 100.5], [420.5, 250.5], [320.5, 60.5]])
    rays = np.c_[(points - [320, 180]) / 300, np.ones(3)]
    seen, _ = cv2.projectPoints(
        rays, np.zeros(3), np.zeros(3), np.array([[300, 0, 320], [0, 300, 180], [0, 0, 1.0]]), k
    )
    image = np.zeros((360, 640, 3), np.uint8)
    for x, y in seen[:, 0]:
        cv2.circle(image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    straight = rectify(image)[..., 0]
    for x, y in points:
        patch = straight[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9].astype(float)
        rows, columns = np.mgrid[-8:9, -8:9]
        assert abs((patch * columns).sum() / patch.sum()) < 0.2 and abs((patch * rows).sum() / patch.sum()) < 0.2


def test_distortion_needs_a_camera_and_four_numbers():
    assert given.rectifier(None, None) is None
    with pytest.raises(UsageError, match="--intrinsics"):
        given.rectifier("0,0,0,0", None)
    with pytest.raises(UsageError, match="4 or 5"):
        given.rectifier("0,0", Intrinsics(torch.ones(2), torch.ones(2), SIZE))


def clip(path, names=()):
    return Clip(path, *SIZE, 10.0, 0.0, len(names) or None, names=names)


def test_masks_belong_to_frames_by_name_or_number(tmp_path):
    for name in ("a.png", "0007.png", "note.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((18, 32), np.uint8))[1].tobytes())
    named = given.mask_files(tmp_path, clip(tmp_path, ("a.jpg", "b.jpg")))
    assert list(named) == ["a"] and given.mask_of(named, "a.jpg", 0) and given.mask_of(named, "b.jpg", 1) is None
    numbered = given.mask_files(tmp_path, clip(tmp_path))
    assert given.mask_of(numbered, "", 7) == tmp_path / "0007.png" and given.mask_of(numbered, "", 8) is None


@pytest.mark.parametrize(
    ("numbers", "frames", "says"),
    [
        ((0, 1, 2), 3, ""), ((0, 2, 4), 5, ""), ((3, 4), 9, ""), ((1,), None, ""), ((0, 1, 2), None, ""),
        ((1, 2, 3), 3, "3.png is of no frame"), ((0, 1, 3), 4, "none for frame 2"),
        ((0, 2, 4, 8), 9, "none for frame 6"),
    ],
)  # fmt: skip
def test_the_number_of_masks(tmp_path, numbers, frames, says):
    for number in numbers:
        (tmp_path / f"{number}.png").write_bytes(b"")
    source = Clip(tmp_path, *SIZE, 10.0, 0.0, frames)
    if says:
        with pytest.raises(UsageError, match=says):
            given.mask_files(tmp_path, source)
    else:
        assert set(given.mask_files(tmp_path, source)) == set(map(str, numbers))


def test_wrong_masks_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        given.mask_files(tmp_path / "none", clip(tmp_path))
    with pytest.raises(UsageError, match="name of a frame"):
        given.mask_files(tmp_path, clip(tmp_path))
    path = tmp_path / "0.png"
    path.write_bytes(cv2.imencode(".png", np.zeros((20, 20), np.uint8))[1].tobytes())
    with pytest.raises(UsageError, match="aspect"):
        given.read_mask(path, SIZE, "ignore")
    path.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no picture"):
        given.read_mask(path, SIZE, "ignore")


def test_masks_of_frames_whose_working_size_has_another_aspect(tmp_path):
    """KITTI's 1241x376 is worked on at 384x128: the mask must be of the frame's shape, not of that."""
    path = tmp_path / "0.png"
    path.write_bytes(cv2.imencode(".png", np.full((376, 1241), 255, np.uint8))[1].tobytes())
    small = given.read_mask(path, (1241, 376), "ignore", (384, 128))
    assert small.shape == (128, 384) and small.all()


@pytest.mark.parametrize(("polarity", "left"), [("ignore", 1), ("keep", 0)])
def test_mask_polarity(tmp_path, polarity, left):
    raw = np.zeros((18, 32), np.uint8)
    raw[:, :16] = 255
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", raw)[1].tobytes())
    mask = given.read_mask(tmp_path / "0.png", SIZE, polarity)
    assert mask.shape == (360, 640) and mask[:, :320].min() == left and mask[:, 320:].max() == 1 - left
