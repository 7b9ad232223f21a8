// The time line: play, pause, scrub, step. Runs at the clip's own times, and waits for frames that are not there yet.

const SPEEDS = [1, 2, 0.25, 0.5];
const LONGEST = 0.25; // s that may pass between two pictures: a tab that slept does not leap

export class Player {
  /** `changed(row)` when another row is to be shown; `ready(row)` says whether its maps are there. */
  constructor(facts, changed, ready) {
    const times = facts.rows.map((row) => row.time);
    Object.assign(this, { facts, times, changed, ready, row: 0, playing: false, clock: times[0], speed: 1 });
    const find = (name) => document.getElementById(name);
    this.parts = { slider: find("scrubber"), play: find("play"), label: find("frame"), time: find("clock"), speed: find("speed") };
    const { slider, play, speed } = this.parts;
    slider.max = times.length - 1;
    slider.addEventListener("input", () => this.go(Number(slider.value)));
    play.addEventListener("click", () => this.toggle());
    find("back").addEventListener("click", () => this.step(-1));
    find("on").addEventListener("click", () => this.step(1));
    speed.addEventListener("click", () => this.setSpeed(SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length]));
    document.addEventListener("keydown", (event) => this.pressed(event));
    document.getElementById("time").classList.toggle("single", times.length < 2);
    this.markCuts();
    this.label();
  }

  /** Where a new shot begins, the time line has a notch. */
  markCuts() {
    const { rows } = this.facts;
    const cuts = rows.flatMap((row, k) => (k && row.shot !== rows[k - 1].shot ? [k] : []));
    for (const cut of cuts) {
      const notch = document.createElement("i");
      notch.style.left = `${(100 * (cut - 0.5)) / (rows.length - 1)}%`;
      document.getElementById("cuts").append(notch);
    }
  }

  pressed(event) {
    const onRange = event.target.matches("input[type=range]") && event.target !== this.parts.slider;
    if (event.ctrlKey || event.altKey || event.metaKey || onRange) return;
    const step = event.shiftKey ? 10 : 1;
    const actions = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.step(-step),
      ArrowRight: () => this.step(step),
      Home: () => this.go(0),
      End: () => this.go(this.times.length - 1),
    };
    if (!actions[event.key] || (event.key === " " && event.target.matches("button, input[type=checkbox], summary"))) return;
    event.preventDefault();
    actions[event.key]();
  }

  toggle(playing = !this.playing) {
    if (this.times.length < 2) return;
    this.playing = playing;
    if (playing && this.row === this.times.length - 1) this.go(0);
    this.clock = this.times[this.row];
    this.parts.play.classList.toggle("playing", playing);
    this.parts.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.changed(this.row);
  }

  step(count) {
    this.toggle(false);
    this.go(this.row + count);
  }

  setSpeed(speed) {
    this.speed = speed;
    this.parts.speed.textContent = `${speed}×`;
  }

  /** Shows a row. */
  go(row) {
    this.row = Math.max(0, Math.min(this.times.length - 1, Math.round(row)));
    this.clock = this.times[this.row];
    this.label();
    this.changed(this.row);
  }

  /** Goes on by `seconds` of the wall clock; after the last frame, begins again. */
  tick(seconds) {
    if (!this.playing) return;
    const { times, row } = this;
    const last = times.length - 1;
    this.clock += Math.min(seconds, LONGEST) * this.speed;
    let next = row;
    while (next < last && times[next + 1] <= this.clock) next++;
    if (row === last && this.clock > times[last] + (times[last] - times[0]) / last) next = 0;
    if (next === row) return;
    if (!this.ready(next)) {
      this.clock = next ? times[next] : this.clock;
      return;
    }
    const clock = next ? this.clock : times[0];
    this.go(next);
    this.clock = clock;
  }

  label() {
    const { slider, label, time } = this.parts;
    const { rows } = this.facts;
    const last = this.times.length - 1;
    slider.value = this.row;
    slider.style.setProperty("--done", last ? this.row / last : 1);
    label.textContent = `${this.row + 1} / ${rows.length}`;
    time.textContent = rows[this.row].name || `${this.times[this.row].toFixed(2)} s`;
    slider.setAttribute("aria-valuetext", `frame ${this.row + 1} of ${rows.length}, ${this.times[this.row].toFixed(2)} s`);
  }
}
