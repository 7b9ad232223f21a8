// The page: facts, the 3-D view, the maps and the time line, wired together.

import { Frames } from "./frames.js";
import { add, axes, length, ofPose, perspective, scaled, sub, viewOf } from "./matrix.js";
import { Orbit } from "./orbit.js";
import { DepthRange, Panels } from "./panels.js";
import { Player } from "./player.js";
import { NONE, framePoints, readCloud } from "./points.js";
import { Scene } from "./scene.js";

const FOCAL = 1.73; // of the free view: 60 degrees from top to bottom
const FAINT_FRUSTA = 30; // at most, along the path
const WARM = [1, 0.706, 0.329];
const COOL = [0.369, 0.878, 0.784];

const find = (id) => document.getElementById(id);
const checked = (id) => find(id).checked && !find(id).disabled;

/** What is shown, and what tests may look at. */
const glvid = { ready: false, readyAfter: 0, cloudReady: false, cloudAfter: 0, shown: -1, shot: -1, pointsDrawn: 0, movingPoints: 0, trouble: "", pictures: 0 };
window.glvid = glvid;

start().catch((error) => say(error.message));

async function start() {
  const answer = await fetch("run.json");
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const facts = await answer.json();
  const page = new Page(facts);
  page.begin();
}

/** One line at the foot of the view. */
function say(sentence) {
  glvid.trouble = sentence;
  find("message").textContent = sentence;
  find("message").hidden = !sentence;
}

class Page {
  constructor(facts) {
    this.facts = facts;
    this.palette = Uint8Array.from(facts.palette.match(/../g), (pair) => parseInt(pair, 16));
    this.middle = Math.sqrt(facts.limits.near * facts.limits.far);
    this.canvas = find("view");
    this.mode = "orbit";
    this.cloud = null;
    this.lacking = "";
    this.dirty = true;
    this.last = null; // time of the last picture, while pictures follow one another
    this.introduce();
    try {
      this.scene = new Scene(this.canvas, this.palette);
    } catch (error) {
      this.lacks(error.message);
    }
    this.orbit = new Orbit(this.canvas, () => this.touch());
    this.panels = new Panels(facts, this.palette);
    this.range = new DepthRange(facts, this.palette, (range) => {
      this.panels.setRange(range);
      this.touch();
    });
    this.frames = new Frames(facts, (row) => row === this.player.row && this.show(row));
    this.player = new Player(facts, (row) => this.goTo(row), (row) => Boolean(this.frames.get(row)));
    this.controls();
    glvid.go = (row) => this.player.go(row);
    Object.defineProperties(glvid, {
      frame: { get: () => this.player.row },
      playing: { get: () => this.player.playing },
      range: { get: () => this.range.range },
      mode: { get: () => this.mode },
    });
  }

  begin() {
    this.goTo(0);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    if (this.facts.cloud !== null) this.fetchCloud().catch((error) => this.lacks(`No cloud: ${error.message}`));
  }

  /** What is missing whatever the frame. */
  lacks(sentence) {
    this.lacking = sentence;
    say(sentence);
  }

  introduce() {
    const { title, size, rows, depth, camera, status, warnings } = this.facts;
    document.title = `${title} · glvid`;
    find("title").textContent = title;
    const seconds = rows[rows.length - 1].time - rows[0].time;
    const length = rows.length > 1 ? `${rows.length} frames · ${seconds.toFixed(1)} s` : "1 frame";
    find("facts").textContent = `${length} · ${size[0]} × ${size[1]}`;
    const scale = depth.unit === "scene" ? "scale unknown" : "metric scale";
    find("focal").textContent = `focal length ${camera.fx.toFixed(0)} px, ${camera.source} · ${scale}`;
    const sentences = status === "complete" ? warnings : [`Status: ${status}.`, ...warnings];
    find("warnings").hidden = !sentences.length;
    for (const sentence of sentences.slice(0, 3)) {
      const item = document.createElement("li");
      item.textContent = sentence;
      item.title = sentence;
      find("warnings").append(item);
    }
  }

  controls() {
    const stored = new Set(this.facts.rows.flatMap((row) => [...row.maps]));
    const there = { cloud: this.facts.cloud !== null, grow: this.facts.cloud !== null, whole: stored.has("d"),
      moving: stored.has("d") && stored.has("m"), "by-depth": stored.has("d"), cut: stored.has("d") };
    for (const [name, is] of Object.entries(there)) {
      find(`${name}-row`).hidden = !is;
      find(name).disabled = !is;
    }
    for (const name of ["size", "cloud", "grow", "cameras", "by-depth", "cut"]) find(name).addEventListener("input", () => this.touch());
    for (const name of ["moving", "whole"]) find(name).addEventListener("input", () => this.setFramePoints());
    for (const name of ["orbit", "follow", "through"]) find(name).addEventListener("click", () => this.setMode(name));
    find("reset").addEventListener("click", () => this.reset());
    document.addEventListener("keydown", (event) => {
      if (event.key === "r" && !event.ctrlKey && !event.metaKey) this.reset();
    });
    this.wide = matchMedia("(min-width: 761px)");
    find("settings").open = this.wide.matches;
    find("settings").addEventListener("toggle", () => this.touch());
  }

  reset() {
    this.setMode("orbit");
    this.orbit.frame(this.poses(), this.middle, false);
  }

  setMode(mode) {
    this.mode = mode;
    for (const name of ["orbit", "follow", "through"]) find(name).setAttribute("aria-pressed", String(name === mode));
    if (mode === "follow") this.orbit.chase(this.pose(), 1.1 * this.middle);
    this.touch();
  }

  // -------------------------------------------------------------- one frame

  pose(row = this.player.row) {
    return this.facts.rows[row].pose;
  }

  /** Poses of the current frame's shot. */
  poses() {
    return this.facts.rows.filter((row) => row.shot === this.facts.rows[this.player.row].shot).map((row) => row.pose);
  }

  goTo(row) {
    const { shot } = this.facts.rows[row];
    if (shot !== glvid.shot) this.enter(shot);
    else if (this.mode === "follow" && this.posed !== undefined) this.orbit.follow(this.pose(this.posed), this.pose(row));
    this.posed = row;
    this.frames.want(row);
    if (this.frames.get(row)) this.show(row);
    this.touch();
  }

  /** Every shot is a world of its own. */
  enter(shot) {
    glvid.shot = shot;
    this.orbit.frame(this.poses(), this.middle);
    if (this.mode === "follow") this.orbit.chase(this.pose(), 1.1 * this.middle);
    const rows = this.facts.rows.map((row, number) => ({ ...row, number })).filter((row) => row.shot === shot);
    const centres = rows.map((row) => axes(row.pose).at);
    const extent = Math.max(...centres.map((at) => length(sub(at, centres[0]))));
    this.reach = Math.min(0.2 * this.middle, Math.max(0.07 * this.middle, 0.1 * extent));
    const path = rows.slice(1).map((row, k) => [centres[k], centres[k + 1], [...WARM, 0.95], row.number]);
    const faint = this.spaced(rows).flatMap((row) => this.frustum(row.pose, 0.4 * this.reach, [...COOL, 0.55], row.number));
    this.scene?.setLines("path", [...faint, ...path]);
  }

  /** Rows whose cameras stand apart, so that their frusta can be told from one another. */
  spaced(rows) {
    const chosen = [];
    let [way, next] = [0, 0];
    rows.forEach((row, k) => {
      way += k ? length(sub(axes(row.pose).at, axes(rows[k - 1].pose).at)) : 0;
      if (way < next) return;
      chosen.push(row);
      next = way + 0.7 * this.reach;
    });
    const every = Math.ceil(chosen.length / FAINT_FRUSTA);
    return chosen.filter((_, k) => k % every === 0);
  }

  /** Corners of a camera's picture at a depth: top left, top right, bottom left, bottom right. */
  corners(pose, depth) {
    const { camera, size } = this.facts;
    const { at, x, y, z } = axes(pose);
    return [[0, 0], [size[0], 0], [0, size[1]], size].map(([u, v]) => {
      const ray = add(add(scaled(x, (u - camera.cx) / camera.fx), scaled(y, (v - camera.cy) / camera.fy)), z);
      return add(at, scaled(ray, depth));
    });
  }

  frustum(pose, depth, color, row) {
    const { at } = axes(pose);
    const [a, b, c, d] = this.corners(pose, depth);
    return [[at, a], [at, b], [at, c], [at, d], [a, b], [b, d], [d, c], [c, a]].map((ends) => [...ends, color, row]);
  }

  /** The maps of a row have come. */
  show(row) {
    const frame = this.frames.get(row);
    if (this.frame === frame) return;
    this.frame = frame;
    this.panels.show(frame);
    this.scene?.setPicture(frame.image);
    glvid.shown = row;
    if (!glvid.ready) glvid.readyAfter = performance.now();
    glvid.ready = true;
    say(frame.errors[0] ?? this.lacking);
    this.setFramePoints();
  }

  setFramePoints() {
    const { frame } = this;
    if (!frame) return;
    const wanted = checked("moving") || checked("whole");
    const points = wanted ? framePoints(frame, this.facts, checked("whole")) : NONE;
    this.frameCount = points.distances.length;
    glvid.movingPoints = this.frameCount;
    this.scene?.setPoints("frame", points);
    this.touch();
  }

  async fetchCloud() {
    find("progress").hidden = false;
    try {
      const answer = await fetch("cloud.bin");
      if (!answer.ok) throw new Error((await answer.text()).trim());
      this.cloud = readCloud(await answer.arrayBuffer(), this.facts.rows);
      this.scene?.setPoints("cloud", this.cloud);
      glvid.cloudReady = true;
      glvid.cloudAfter = performance.now();
    } finally {
      find("progress").hidden = true;
    }
    this.touch();
  }

  // -------------------------------------------------------------- drawing

  /** There is something new to draw. Nothing runs while there is not. */
  touch() {
    this.dirty = true;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame((now) => this.tick(now));
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.ratio = ratio;
    this.draw();
  }

  tick(now) {
    const seconds = (now - (this.last ?? now)) / 1000;
    this.waiting = false;
    this.player.tick(seconds);
    const gliding = this.orbit.glide(Math.min(seconds, 0.1));
    if (this.dirty || gliding) this.draw();
    this.last = null;
    if (!gliding && !this.player.playing) return;
    this.last = now;
    this.waiting = true;
    requestAnimationFrame((next) => this.tick(next));
  }

  cloudCount() {
    if (!this.cloud || !checked("cloud") || this.facts.cloud !== glvid.shot) return 0;
    return checked("grow") ? this.cloud.upto[this.player.row] : this.cloud.count;
  }

  draw() {
    if (!this.scene || !this.ratio) return;
    this.dirty = false;
    const { facts, ratio } = this;
    const pose = this.pose();
    const { at, z } = axes(pose);
    const cloudCount = this.cloudCount();
    // maps that are still on their way belong to another camera than the one shown
    const frameCount = glvid.shown === this.player.row ? (this.frameCount ?? 0) : 0;
    const times = Number(find("size").value);
    const pixel = times / facts.camera.fx; // of a stored map, at distance 1
    this.scene.draw({
      ...this.lens(pose),
      ratio,
      depthAxis: [...z, -(z[0] * at[0] + z[1] * at[1] + z[2] * at[2])],
      range: this.range.range,
      size: pixel * facts.stride,
      grain: pixel * facts.stride * this.middle * 0.7,
      frameSize: pixel * (facts.size[0] / facts.sent[0]),
      byDepth: checked("by-depth"),
      cut: checked("cut"),
      cloudCount,
      model: ofPose(pose),
      frameCount,
      now: this.player.row,
      corners: this.corners(pose, this.reach),
      opacity: 0.92,
      faint: 0.22,
      showCamera: checked("cameras") && this.mode !== "through",
      showPicture: glvid.shown === this.player.row,
    });
    if (glvid.pointsDrawn !== cloudCount + frameCount || !glvid.pictures) {
      find("cloud-count").textContent = cloudCount ? cloudCount.toLocaleString("en") : "";
      find("moving-count").textContent = frameCount && !checked("whole") ? frameCount.toLocaleString("en") : "";
    }
    glvid.pointsDrawn = cloudCount + frameCount;
    glvid.pictures += 1;
  }

  /** Projection and point of view. */
  lens(pose) {
    const { width, height } = this.canvas;
    const [near, far] = [this.middle * 0.01, this.middle * 400];
    if (this.mode !== "through") {
      const shift = this.wide.matches && find("settings").open ? [0.11, 0] : [0, 0]; // beside the open panel
      const projection = perspective(FOCAL, width / height, near, far, shift);
      const color = [...COOL, 1];
      this.scene.setLines("camera", this.frustum(pose, this.reach, color, 0));
      return { projection, view: this.orbit.view, near, far, pixels: (FOCAL * height) / 2 };
    }
    const { camera, size } = this.facts;
    const scale = Math.min(width / size[0], height / size[1]);
    const shift = [(2 * scale * (camera.cx - size[0] / 2)) / width, (2 * scale * (size[1] / 2 - camera.cy)) / height];
    const projection = perspective((2 * camera.fy * scale) / height, (camera.fy / camera.fx) * (width / height), near, far, shift);
    const { at, x, y, z } = axes(pose);
    return { projection, view: viewOf(at, x, scaled(y, -1), scaled(z, -1)), near, far, pixels: camera.fy * scale };
  }
}
