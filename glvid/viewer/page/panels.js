// The maps of the current frame beside the 3-D view, and the range of depth that its colours span.

const STEPS = 1000; // of the range's sliders

/** A number as people read it: about three digits. */
export function short(value) {
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.max(Math.abs(value), 1e-9))));
  return value.toFixed(Math.min(digits, 6));
}

/** 65536 colours (RGBA in one number, little endian) of stored depths; `palette`: 256 x 3 bytes, far to near. */
export function depthTable(palette, scale, [near, far]) {
  const table = new Uint32Array(65536);
  table[0] = 0xff000000;
  const span = 1 / near - 1 / far;
  for (let step = 1; step < 65536; step++) {
    const level = (1 / (step * scale) - 1 / far) / span;
    const k = 3 * Math.round(255 * Math.min(1, Math.max(0, level)));
    table[step] = (0xff000000 | (palette[k + 2] << 16) | (palette[k + 1] << 8) | palette[k]) >>> 0;
  }
  return table;
}

/** Draws the maps of a frame into their canvases. */
export class Panels {
  constructor(facts, palette) {
    Object.assign(this, { facts, palette, frame: null });
    const stored = new Set(facts.rows.flatMap((row) => [...row.maps]));
    this.figures = {};
    for (const [name, letter] of [["image", "i"], ["depth", "d"], ["flow", "f"], ["mask", "m"]]) {
      const figure = document.getElementById(`${name}-map`);
      figure.hidden = !stored.has(letter);
      if (figure.hidden) continue;
      const canvas = figure.querySelector("canvas");
      [canvas.width, canvas.height] = facts.sent;
      this.figures[name] = { figure, context: canvas.getContext("2d") };
    }
    document.getElementById("range").hidden = !stored.has("d");
    document.getElementById("maps").hidden = stored.size === 0;
    document.body.classList.toggle("portrait", facts.sent[1] > facts.sent[0]);
    document.body.classList.toggle("bare", stored.size === 0);
    document.body.style.setProperty("--aspect", facts.sent[0] / facts.sent[1]);
    document.body.style.setProperty("--panels", Math.max(1, stored.size));
  }

  setRange(range) {
    this.table = depthTable(this.palette, this.facts.depth.scale, range);
    if (this.frame) this.drawDepth();
  }

  show(frame) {
    this.frame = frame;
    for (const name of ["image", "flow"]) {
      this.draw(name, frame[name], (context) => context.drawImage(frame[name], 0, 0));
    }
    this.drawDepth();
    this.draw("mask", frame.mask, (context, [width, height]) => {
      const picture = context.createImageData(width, height);
      const words = new Uint32Array(picture.data.buffer);
      frame.mask.forEach((value, k) => { words[k] = (0xff000000 | (value * 0x010101)) >>> 0; });
      context.putImageData(picture, 0, 0);
    });
  }

  drawDepth() {
    const { steps } = this.frame;
    this.draw("depth", steps, (context, [width, height]) => {
      const picture = context.createImageData(width, height);
      const words = new Uint32Array(picture.data.buffer);
      for (let k = 0; k < words.length; k++) words[k] = this.table[steps[k]];
      context.putImageData(picture, 0, 0);
    });
  }

  draw(name, there, paint) {
    const panel = this.figures[name];
    if (!panel) return;
    panel.figure.classList.toggle("absent", !there);
    const [width, height] = this.facts.sent;
    if (there) paint(panel.context, [width, height]);
    else panel.context.clearRect(0, 0, width, height);
  }
}

/** Two sliders, nearest and farthest depth, and the colours between them. `changed([near, far])`. */
export class DepthRange {
  constructor(facts, palette, changed) {
    const { near, far } = facts.limits;
    Object.assign(this, { facts, changed, home: [near, far], lowest: near / 4, highest: far * 4 });
    this.sliders = ["near", "far"].map((name) => document.getElementById(name));
    this.labels = ["near-label", "far-label"].map((name) => document.getElementById(name));
    this.unit = facts.depth.unit === "scene" ? "scene units" : facts.depth.unit;
    document.getElementById("range-unit").textContent = this.unit;
    this.bar = document.getElementById("colors");
    const context = this.bar.getContext("2d");
    const picture = context.createImageData(256, 1);
    for (let k = 0; k < 256; k++) picture.data.set([...palette.slice(3 * (255 - k), 3 * (255 - k) + 3), 255], 4 * k);
    context.putImageData(picture, 0, 0);
    this.sliders.forEach((slider, k) => {
      slider.max = STEPS;
      slider.addEventListener("input", () => this.moved(k));
    });
    document.getElementById("range-reset").addEventListener("click", () => this.set(this.home));
    this.set(this.home);
  }

  /** The sliders are logarithmic: what is near matters as much as what is far. */
  set([near, far]) {
    const place = (value) => (STEPS * Math.log(value / this.lowest)) / Math.log(this.highest / this.lowest);
    this.sliders[0].value = place(near);
    this.sliders[1].value = place(far);
    this.show([near, far]);
  }

  moved(which) {
    const places = this.sliders.map((slider) => Number(slider.value));
    const least = 15; // the ends never meet
    if (places[1] - places[0] < least) {
      places[which] = which ? places[0] + least : places[1] - least;
      this.sliders[which].value = places[which];
    }
    this.show(places.map((place) => this.lowest * (this.highest / this.lowest) ** (place / STEPS)));
  }

  show(range) {
    this.range = range;
    const [low, high] = this.sliders.map((slider) => Number(slider.value) / STEPS);
    this.bar.style.left = `${100 * low}%`;
    this.bar.style.width = `${100 * (high - low)}%`;
    range.forEach((value, k) => {
      this.labels[k].textContent = short(value);
      this.sliders[k].setAttribute("aria-valuetext", `${short(value)} ${this.unit}`);
    });
    this.changed(range);
  }
}
