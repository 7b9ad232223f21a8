// The viewer of the 3-D view: turns about a target. One finger or the left button turns, two fingers or the right button
// shift, pinch or wheel come closer. It glides towards where it is to be.

import { add, axes, cross, dot, length, mixed, scaled, sub, unit, viewOf } from "./matrix.js";

const STEEPEST = 1.5; // rad
const GLIDE = 0.09; // s in which two thirds of the way are made

export class Orbit {
  /** `changed` is called when there is something new to draw. */
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, fingers: new Map() });
    this.basis = { right: [1, 0, 0], up: [0, -1, 0], ahead: [0, 0, 1] };
    this.goal = { target: [0, 0, 0], distance: 1, turn: 0, rise: 0.4 };
    this.now = { ...this.goal };
    canvas.addEventListener("pointerdown", (event) => this.pressed(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.rolled(event), { passive: false });
  }

  /** Home: behind and above the first of the cameras (poses), looking along their path; `middle` is a usual depth. */
  frame(poses, middle, jump = true) {
    const cameras = poses.map(axes);
    const up = unit(scaled(cameras.reduce((sum, c) => add(sum, c.y), [0, 0, 0]), -1), [0, -1, 0]);
    const flat = (a) => sub(a, scaled(up, dot(a, up)));
    const ahead = unit(flat(cameras[0].z), unit(flat([0.1, 0.2, 1])));
    this.basis = { right: cross(ahead, up), up, ahead };
    const centre = scaled(cameras.reduce((sum, c) => add(sum, c.at), [0, 0, 0]), 1 / cameras.length);
    const extent = Math.max(...cameras.map((c) => length(sub(c.at, centre))));
    const distance = 0.85 * middle + 1.5 * extent;
    this.goal = { target: add(centre, scaled(ahead, 0.5 * middle)), distance, turn: -0.38, rise: 0.4 };
    if (jump) this.now = { ...this.goal };
    this.changed();
  }

  /** Goes along with a camera that went from one pose to another, its turns to the side included. */
  follow(from, to) {
    const [a, b] = [axes(from), axes(to)];
    const heading = (c) => Math.atan2(dot(c.z, this.basis.right), dot(c.z, this.basis.ahead));
    const turned = heading(b) - heading(a);
    const wrapped = Math.atan2(Math.sin(turned), Math.cos(turned));
    const { right, up, ahead } = this.basis;
    const off = sub(this.goal.target, a.at);
    const [x, y, z] = [dot(off, right), dot(off, up), dot(off, ahead)];
    const [c, s] = [Math.cos(wrapped), Math.sin(wrapped)];
    const turnedOff = add(add(scaled(right, c * x + s * z), scaled(up, y)), scaled(ahead, c * z - s * x));
    this.goal.target = add(b.at, turnedOff);
    this.goal.turn -= wrapped;
    this.changed();
  }

  /** Brings a camera close: `distance` behind it. */
  chase(pose, distance) {
    const camera = axes(pose);
    const heading = Math.atan2(dot(camera.z, this.basis.right), dot(camera.z, this.basis.ahead));
    const near = Math.atan2(Math.sin(this.now.turn + heading), Math.cos(this.now.turn + heading)) - heading;
    this.now.turn = near; // the shorter way round
    const ahead = unit(camera.z);
    this.goal = { target: add(camera.at, scaled(ahead, distance * 0.6)), distance, turn: -0.18 - heading, rise: 0.32 };
    this.changed();
  }

  /** Glides on for `seconds`; says whether it is still on its way. */
  glide(seconds) {
    const share = 1 - Math.exp(-seconds / GLIDE);
    const { now, goal } = this;
    const rest = length(sub(goal.target, now.target)) / goal.distance + Math.abs(goal.turn - now.turn)
      + Math.abs(goal.rise - now.rise) + Math.abs(Math.log(goal.distance / now.distance));
    if (rest < 5e-4) {
      this.now = { ...goal };
      return false;
    }
    now.target = mixed(now.target, goal.target, share);
    for (const name of ["turn", "rise"]) now[name] += (goal[name] - now[name]) * share;
    now.distance *= (goal.distance / now.distance) ** share;
    return true;
  }

  /** World to eye coordinates. */
  get view() {
    const { right, up, back } = this.eyes();
    return viewOf(add(this.now.target, scaled(back, this.now.distance)), right, up, back);
  }

  eyes() {
    const { turn, rise } = this.now;
    const { right, up, ahead } = this.basis;
    const outward = add(scaled(right, Math.sin(turn)), scaled(ahead, -Math.cos(turn)));
    const back = unit(add(scaled(outward, Math.cos(rise)), scaled(up, Math.sin(rise))));
    const side = unit(cross(up, back));
    return { right: side, up: cross(back, side), back };
  }

  pressed(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    this.shifting = event.button !== 0 || event.shiftKey || event.ctrlKey;
  }

  moved(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    const here = [event.clientX, event.clientY];
    const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
    this.fingers.set(event.pointerId, here);
    if (other) {
      const gap = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      this.closer(gap(before) / Math.max(gap(here), 1));
      this.shift(dx / 2, dy / 2);
    } else if (this.shifting) {
      this.shift(dx, dy);
    } else {
      this.goal.turn -= dx * 0.006;
      this.goal.rise = Math.min(STEEPEST, Math.max(-STEEPEST, this.goal.rise + dy * 0.006));
    }
    this.changed();
  }

  rolled(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 24 : 1;
    this.closer(Math.exp(Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.0012));
    this.changed();
  }

  closer(ratio) {
    this.goal.distance *= Math.min(4, Math.max(0.25, ratio));
  }

  shift(dx, dy) {
    const { right, up } = this.eyes();
    const unitsPerPixel = (this.goal.distance * 0.9) / this.canvas.clientHeight;
    this.goal.target = add(this.goal.target, add(scaled(right, -dx * unitsPerPixel), scaled(up, dy * unitsPerPixel)));
  }
}
