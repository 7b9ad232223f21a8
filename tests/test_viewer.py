"""`glvid view`: what the server answers and refuses, and the page in a real Chromium."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from chromium import page, until
from room import Room, room, write_run

from glvid import results
from glvid.errors import UsageError
from glvid.exports.cloud import fuse, fuse_with_first
from glvid.formats import write_depth
from glvid.viewer import Viewer, content, open_server
from glvid.viewer.server import PAGE, is_loopback


@pytest.fixture(scope="module")
def truth() -> Room:
    return room()


@pytest.fixture(scope="module")
def run(truth, tmp_path_factory) -> results.RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "room.glvid", truth)


@pytest.fixture
def copy(run, tmp_path) -> results.RunFolder:
    return results.open_run(shutil.copytree(run.path, tmp_path / "copy.glvid"))


@pytest.fixture(scope="module")
def viewer(run) -> Iterator[Viewer]:
    with open_server(run, port=0) as served:
        yield served


def ask(viewer: Viewer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def picture(data: bytes) -> np.ndarray:
    """RGB."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]


def cloud_of(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of points up to each row, positions, colours."""
    count, rows = np.frombuffer(data, "<u4", 2)
    upto = np.frombuffer(data, "<u4", rows, 8)
    start = 8 + 4 * int(rows)
    points = np.frombuffer(data, "<f4", 3 * count, start).reshape(-1, 3)
    assert len(data) == start + 15 * count
    return upto, points, np.frombuffer(data, np.uint8, offset=start + 12 * int(count)).reshape(-1, 3)


# ---------------------------------------------------------------- what is answered


def test_the_page_is_whole_and_asks_for_nothing_elsewhere(viewer):
    for path, (_, kind) in PAGE.items():
        status, headers, body = ask(viewer, path)
        assert status == 200 and headers["content-type"] == kind and body
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"https://" not in body and body.count(b"http://") == body.count(b"http://www.w3.org/2000/svg")
    assert ask(viewer, "/", "HEAD")[2] == b"" and int(ask(viewer, "/", "HEAD")[1]["content-length"]) > 1000


def test_facts(viewer, run, truth):
    facts = json.loads(ask(viewer, "/run.json")[2])
    assert facts["title"] == "clip.mp4" and facts["size"] == [160, 120] and facts["sent"] == [160, 120]
    assert facts["depth"] == {"scale": run.info["depth"]["scale"], "unit": "m", "source": "truth"}
    assert facts["camera"]["fx"] == pytest.approx(144)
    assert [row["maps"] for row in facts["rows"]] == ["dfmi"] * 5 + ["dmi"]
    assert [row["time"] for row in facts["rows"]] == pytest.approx([k / 30 for k in range(6)], abs=1e-6)
    poses = np.array([row["pose"] for row in facts["rows"]]).reshape(-1, 3, 4)
    assert np.abs(poses - truth.world_T_cam[:, :3]).max() < 1e-6
    assert facts["limits"]["near"] < np.median(truth.depth) < facts["limits"]["far"]
    assert len(facts["palette"]) == 256 * 6 and facts["palette"] == content.palette()


def test_depth_and_mask_are_the_stored_ones(viewer, run):
    for k in (0, 5):
        sent = picture(ask(viewer, f"/depth/{k}.png")[2]).astype(np.int64)
        stored = cv2.imread(str(run.path / run.rows[k].depth), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(256 * sent[..., 0] + sent[..., 1], stored)
        assert np.array_equal(sent[..., 2], cv2.imread(str(run.path / run.rows[k].mask), cv2.IMREAD_UNCHANGED))


def test_every_16_bit_value_comes_through(copy):
    values = np.arange(160 * 120).reshape(120, 160) * 3.4  # 0 .. 65276
    write_depth(copy.path / copy.rows[0].depth, values.round().clip(1) * 1e-3, 1e-3)
    run = replace(copy, info=copy.info | {"depth": copy.info["depth"] | {"scale": 1e-3}})
    sent = picture(content.depth_png(run, run.rows[0])).astype(np.int64)
    assert np.array_equal(256 * sent[..., 0] + sent[..., 1], values.round().clip(1))


def test_large_maps_are_sent_small_without_mixing_depths():
    array = np.arange(1200 * 900).reshape(900, 1200)
    small = content.nearest(array, content.sent_size((1200, 900)))
    assert small.shape == (480, 640)
    y, x = np.divmod(small, 1200)  # within half a stored pixel of the centre of the pixel sent
    assert np.abs(x[0] + 0.5 - (np.arange(640) + 0.5) * 1.875).max() <= 0.5
    assert np.abs(y[:, 0] + 0.5 - (np.arange(480) + 0.5) * 1.875).max() <= 0.5
    assert content.sent_size((300, 200)) == (300, 200) and content.sent_size((720, 1280)) == (360, 640)


def test_flow_and_image(viewer, run, truth):
    status, headers, flow = ask(viewer, "/flow/0.png")
    assert (status, headers["content-type"]) == (200, "image/png") and picture(flow).shape == (120, 160, 3)
    status, headers, image = ask(viewer, "/image/3.jpg")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert image == (run.path / run.rows[3].image).read_bytes()
    assert ask(viewer, "/flow/5.png")[0] == 404  # the last row has none


def test_the_cloud_is_the_fused_one_in_the_order_it_was_seen(viewer, run):
    upto, points, colors = cloud_of(ask(viewer, "/cloud.bin")[2])
    whole = fuse(run)
    assert len(upto) == 6 and upto[-1] == len(points) == len(whole.points) and (np.diff(upto.astype(int)) >= 0).all()

    def lines(xyz: np.ndarray, rgb: np.ndarray) -> np.ndarray:
        both = np.concatenate([xyz, rgb], 1)
        return both[np.lexsort(both.T)]

    assert np.array_equal(lines(points, colors), lines(whole.points, whole.colors))


def test_points_appear_when_they_are_first_seen(run, truth):
    """What row 0 sees is there from the start, and what appears later lies outside of the pictures before."""
    cloud, first = fuse_with_first(run)
    assert first.min() == 0 and set(first.tolist()) <= set(range(6))
    late = cloud.points[first == 5]
    assert 20 < len(late) < 0.2 * len(cloud.points) < (first == 0).sum()
    local = (late - truth.world_T_cam[4, :3, 3]) @ truth.world_T_cam[4, :3, :3]
    (fx, _), (cx, cy) = truth.intrinsics.focal.tolist(), truth.intrinsics.center.tolist()
    u, v = local[:, 0] / local[:, 2] * fx + cx, local[:, 1] / local[:, 2] * fx + cy
    outside = (u < 1) | (u > 159) | (v < 1) | (v > 119)
    near_ball = np.linalg.norm(late - [-0.05, 0.3, 4.25], axis=1) < 6  # and what the ball hid
    assert (outside | near_ball).mean() > 0.9


def test_a_coarse_cloud_grows_with_the_same_rows(run):
    cloud, first = fuse_with_first(run, 500, most_views=3)
    assert len(cloud.points) == len(first) <= 500 and set(first.tolist()) <= {0, 2, 3, 5}


def test_what_the_browser_has_is_not_sent_again(viewer):
    tag = ask(viewer, "/depth/0.png")[1]["etag"]
    for path in ("/depth/0.png", "/image/1.jpg", "/cloud.bin"):
        status, headers, body = ask(viewer, path, If_None_Match=tag)
        assert (status, body) == (304, b"") and headers["etag"] == tag
    assert ask(viewer, "/depth/0.png", If_None_Match='"other"')[0] == 200


# ---------------------------------------------------------------- what is refused

STRANGE = (
    "/../run.json /..%2frun.json /depth/..%2f /depth/../run.json /depth/000006.png /depth/999999.png /depth/-1.png "
    "/depth/0.png?x /depth/0.jpg /depth/00000000.png /depth/%D9%A0.png /depth/١.png /depth/0.png/ /depth/ /mask/0.png "
    "/run.json/ /camera.json /frames.csv /page.html /viewer/server.py /server.py /%2e%2e/%2e%2e/etc/passwd /favicon.ico"
).split()


@pytest.mark.parametrize("path", STRANGE)
def test_nothing_else_is_there(viewer, path):
    connection = socket.create_connection(("127.0.0.1", viewer.port), timeout=10)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = connection.makefile("rb").read()
    connection.close()
    assert answer.split()[1] == b"404" and b"glvid-run" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reading_is_served(viewer, method):
    assert ask(viewer, "/run.json", method)[0] == 501


def test_a_run_in_metres_is_another_one_to_the_browser(run):
    """What it keeps of the one must not be shown with the other."""
    plain, scaled = (open_server(r, port=0) for r in (run, run.scaled(2, "m", "test")))
    try:
        assert plain.tag != scaled.tag
    finally:
        plain.close()
        scaled.close()


@pytest.mark.parametrize("host", ["LOCALHOST", "127.1"])
def test_this_machine_by_another_name_is_this_machine(run, host):
    with open_server(run, host, port=0) as viewer:
        assert viewer.allows("127.0.0.1:1") and not viewer.allows("evil.example")


def test_other_host_names_are_refused(viewer):
    """A page elsewhere may let a name of its own point here (DNS rebinding)."""
    for host in ("localhost", "localhost:9000", "127.0.0.1", f"127.0.0.1:{viewer.port}", "[::1]:8123"):
        assert ask(viewer, "/run.json", Host=host)[0] == 200
    for host in ("evil.example", "evil.example:8123", "", "127.0.0.1.evil.example", "localhost.evil.example"):
        assert ask(viewer, "/run.json", Host=host)[0] == 403


def test_it_listens_to_this_machine_only_unless_told_otherwise(run):
    with open_server(run, port=0) as here:
        assert here.url == f"http://127.0.0.1:{here.port}/" and is_loopback(here.host)
        assert here._server.socket.getsockname()[0] == "127.0.0.1"
    with open_server(run, "0.0.0.0", 0) as open_:
        assert open_.url.startswith("http://127.0.0.1:") and ask(open_, "/run.json", Host="my-server:80")[0] == 200
    with pytest.raises(UsageError, match="203.0.113.7: cannot be listened on"):
        open_server(run, "203.0.113.7")
    with pytest.raises(UsageError, match="no such name: cannot be listened on"):
        open_server(run, "no such name")


def test_a_taken_port_is_passed_over(run):
    with open_server(run, port=0) as first, open_server(run, port=first.port) as second:
        assert first.port < second.port <= first.port + 20
        assert ask(second, "/run.json")[0] == 200
    with open_server(run, port=first.port) as again:  # free at once
        assert again.port == first.port


def test_closing_ends_it(run):
    viewer = open_server(run, port=0)
    thread = threading.Thread(target=viewer.serve_forever)
    thread.start()
    assert ask(viewer, "/run.json")[0] == 200
    viewer.close()
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(OSError):
        ask(viewer, "/run.json")


def test_a_damaged_map_is_one_sentence(copy):
    (copy.path / copy.rows[2].depth).write_bytes(b"nonsense")
    (copy.path / copy.rows[1].image).unlink()
    with open_server(copy, port=0) as viewer:
        for path, word in (("/depth/2.png", "is damaged"), ("/image/1.jpg", "is missing"), ("/cloud.bin", "damaged")):
            status, headers, body = ask(viewer, path)
            assert status == 500 and word in body.decode() and body.count(b"\n") == 1
            assert headers["content-type"].startswith("text/plain")
        assert ask(viewer, "/run.json")[0] == ask(viewer, "/depth/3.png")[0] == 200


def test_two_shots_and_missing_maps(truth, tmp_path):
    two = write_run(tmp_path / "two.glvid", truth, shots=(2,))
    facts = content.facts(two, content.limits_of(two))
    assert facts["cloud"] == 1 and [row["shot"] for row in facts["rows"]] == [0, 0, 1, 1, 1, 1]
    upto = cloud_of(content.fused(two))[0]
    assert upto[1] == 0 < upto[2]
    for keep in ((), ("image",), ("mask",), ("flow", "image")):
        bare = without(two, keep)
        facts = content.facts(bare, content.limits_of(bare))
        assert facts["cloud"] is None and np.isfinite(list(facts["limits"].values())).all()
        assert facts["limits"]["near"] < facts["limits"]["far"]
    sent = picture(content.depth_png(without(two, ("mask",)), without(two, ("mask",)).rows[0]))
    assert not sent[..., :2].any() and sent[..., 2].any()


def without(run: results.RunFolder, keep: tuple[str, ...]) -> results.RunFolder:
    """The run as if only `keep` had been stored."""
    gone = {kind: "" for kind in results.KINDS if kind not in keep}
    return replace(run, rows=tuple(replace(row, **gone) for row in run.rows))


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def tab(run):
    """The page with the room, its cloud there."""
    with page(860, 540) as (opened, trouble), open_server(run, port=0) as viewer:
        opened.goto(viewer.url)
        until(opened, "window.glvid?.ready && glvid.cloudReady")
        yield opened
        assert trouble == []


def go(tab, row: int) -> None:
    """Waits until the row, its maps included, is drawn."""
    tab.evaluate(f"glvid.go({row})")
    until(tab, f"glvid.shown === {row}")
    settle(tab)


def settle(tab) -> None:
    """Until nothing moves any more: two pictures of the screen have passed without another one of ours."""
    while tab.evaluate(
        "new Promise(done => { const before = glvid.pictures; requestAnimationFrame(() => "
        "requestAnimationFrame(() => done(glvid.pictures !== before))); })"
    ):
        pass


def shot(tab, selector: str) -> np.ndarray:
    """What is seen of an element."""
    return picture(tab.locator(selector).screenshot()).astype(np.int64)


def pick(tab, name: str, on: bool) -> None:
    """Sets a check box."""
    tab.locator(f"#{name}").set_checked(on)
    settle(tab)


def test_the_page_shows_the_room(tab):
    go(tab, 0)
    assert tab.title() == "clip.mp4 · glvid" and tab.locator("#title").inner_text() == "clip.mp4"
    middle = shot(tab, "#view")[120:360, 250:560]
    assert middle.std() > 20 and len(np.unique(middle.reshape(-1, 3), axis=0)) > 500
    for name in ("image", "depth", "flow", "mask"):
        assert shot(tab, f"#{name}-map canvas").std() > 10, name
    assert tab.locator("#message").is_hidden() and tab.locator("#progress").is_hidden()


def test_the_cloud_grows_and_the_scrubber_changes_all(tab):
    go(tab, 0)
    seen, views, pictures = [], [], []
    for row in (0, 2, 5):
        tab.locator("#scrubber").evaluate(f"s => {{ s.value = {row}; s.dispatchEvent(new Event('input')); }}")
        until(tab, f"glvid.shown === {row}")
        settle(tab)
        seen.append(tab.evaluate("glvid.pointsDrawn - glvid.movingPoints"))
        views.append(shot(tab, "#view"))
        pictures.append(shot(tab, "#image-map"))
        assert tab.locator("#frame").inner_text() == f"{row + 1} / 6"
    assert 0 < seen[0] < seen[1] < seen[2]
    for images in (views, pictures):
        assert all((a != b).any(-1).mean() > 0.002 for a, b in zip(images, images[1:], strict=False))
    pick(tab, "grow", False)
    go(tab, 0)
    assert tab.evaluate("glvid.pointsDrawn - glvid.movingPoints") == seen[-1]
    pick(tab, "grow", True)


def test_keys_and_play(tab):
    go(tab, 0)
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("glvid.frame") == 1
    tab.keyboard.press("End")
    assert tab.evaluate("glvid.frame") == 5
    tab.keyboard.press("Home")
    tab.evaluate("document.getElementById('speed').click(); document.getElementById('speed').click()")  # a quarter
    tab.locator("#play").click()
    assert tab.evaluate("glvid.playing") and tab.locator("#play").get_attribute("aria-label") == "Pause"
    until(tab, "glvid.frame > 1")
    tab.keyboard.press("ArrowLeft")
    assert not tab.evaluate("glvid.playing")
    tab.evaluate("document.getElementById('speed').click(); document.getElementById('speed').click()")
    assert tab.locator("#speed").inner_text() == "1×"


def test_moving_points_are_the_ball(tab, truth):
    go(tab, 1)
    count = tab.evaluate("glvid.movingPoints")
    assert 0.8 < count / truth.moving[1].sum() <= 1
    before, whole = shot(tab, "#view"), tab.evaluate("glvid.pointsDrawn")
    pick(tab, "moving", False)
    assert tab.evaluate("glvid.movingPoints") == 0 and tab.evaluate("glvid.pointsDrawn") == whole - count
    assert (shot(tab, "#view") != before).any(-1).sum() > 100
    pick(tab, "whole", True)
    assert tab.evaluate("glvid.movingPoints") > 0.8 * 160 * 120
    pick(tab, "whole", False)
    pick(tab, "moving", True)


def test_point_size_depth_range_and_colours(tab):
    go(tab, 1)
    before, depth = shot(tab, "#view"), shot(tab, "#depth-map")
    for name, value in (("size", 4), ("far", 600)):
        tab.locator(f"#{name}").evaluate(f"s => {{ s.value = {value}; s.dispatchEvent(new Event('input')); }}")
    settle(tab)
    assert (shot(tab, "#view") != before).any(-1).mean() > 0.02
    assert np.abs(shot(tab, "#depth-map") - depth).mean() > 5
    for name in ("by-depth", "cut", "cameras", "cloud"):
        before = shot(tab, "#view")
        tab.locator(f"#{name}").click()
        settle(tab)
        assert (shot(tab, "#view") != before).any(-1).sum() > 50, name
    for name in ("by-depth", "cut", "cameras", "cloud", "range-reset"):
        tab.locator(f"#{name}").click()
    tab.locator("#size").evaluate("s => { s.value = 1.4; s.dispatchEvent(new Event('input')); }")
    settle(tab)
    assert (shot(tab, "#depth-map") == depth).all()


@pytest.mark.slow
def test_points_of_view(tab, truth):
    """Through the camera the cloud is the frame: the same picture, point by point."""
    go(tab, 0)
    first = shot(tab, "#view")
    tab.mouse.move(450, 250)
    tab.mouse.down()
    tab.mouse.move(510, 270, steps=3)
    tab.mouse.up()
    settle(tab)
    assert (shot(tab, "#view") != first).any(-1).mean() > 0.05
    tab.mouse.wheel(0, -300)
    settle(tab)
    tab.locator("#reset").click()
    settle(tab)
    assert np.abs(shot(tab, "#view") - first).mean() < 1
    tab.locator("#follow").click()
    settle(tab)
    go(tab, 4)
    assert np.abs(shot(tab, "#view") - first).mean() > 2
    tab.locator("#through").click()
    pick(tab, "whole", True)
    go(tab, 3)
    view = shot(tab, "#view")
    assert through_error(view, truth.images[3]) < 12 and 30 < through_error(view, truth.images[3][:, ::-1])
    pick(tab, "whole", False)
    tab.locator("#reset").click()


def through_error(view: np.ndarray, image: np.ndarray) -> float:
    """Mean difference of the middle of the view through the camera from the picture at the same place."""
    h, w = view.shape[:2]
    shown = min(w / 4, h / 3) * np.array([4, 3])  # px that the picture takes up
    x, y = np.meshgrid(np.linspace(0.42, 0.75, 60), np.linspace(0.25, 0.55, 40))
    seen = cv2.blur(view.astype(np.float32), (5, 5))[
        (h / 2 + (y - 0.5) * shown[1]).astype(int), (w / 2 + (x - 0.5) * shown[0]).astype(int)
    ]
    true = image[(y * image.shape[0]).astype(int), (x * image.shape[1]).astype(int)]
    return float(np.abs(seen - true).mean())


def test_a_strange_run_in_the_browser(truth, tmp_path):
    """Two shots, no flow, a damaged map, a hostile name; on a phone."""
    run = write_run(tmp_path / "two.glvid", truth, shots=(2,), keep=("depth", "mask", "image"))
    (run.path / run.rows[4].depth).write_bytes(b"nonsense")
    hostile = "a/<img src=x onerror=alert(1)>.mp4"
    run = replace(run, info=run.info | {"input": run.info["input"] | {"path": hostile}, "warnings": ["<b>Beware"]})
    with page(390, 844) as (tab, trouble), open_server(run, port=0) as viewer:
        tab.goto(viewer.url)
        until(tab, "window.glvid?.ready && glvid.trouble")
        assert tab.evaluate("glvid.trouble").startswith("No cloud: ")  # which needs that map
        assert tab.locator("#title").inner_text() == "<img src=x onerror=alert(1)>.mp4"
        assert tab.locator("#flow-map").is_hidden() and tab.locator("#depth-map").is_visible()
        assert tab.locator("#cuts i").count() == 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        go(tab, 4)
        assert "No cloud" not in tab.locator("#message").inner_text() and tab.evaluate("glvid.movingPoints") == 0
        go(tab, 3)
        assert "No cloud: " in tab.locator("#message").inner_text() and tab.evaluate("glvid.movingPoints") > 100
        assert tab.evaluate("glvid.shot") == 1
        assert trouble and all(" 500" in line for line in trouble)


@pytest.mark.parametrize("keep", [(), ("image",), ("depth",)])
def test_runs_without_maps_in_the_browser(run, keep):
    with page(1000, 600) as (tab, trouble), open_server(without(run, keep), port=0) as viewer:
        tab.goto(viewer.url)
        until(tab, "window.glvid?.ready")
        go(tab, 3)
        assert shot(tab, "#view").std() > 1  # the path
        for name in ("image", "depth", "flow", "mask"):
            assert tab.locator(f"#{name}-map").is_visible() == (name in keep)
        assert trouble == []
