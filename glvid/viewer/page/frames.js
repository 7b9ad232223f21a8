// The maps of single frames: fetched a few ahead of the one shown, decoded, and kept for a while.

const AHEAD = 8; // frames asked for beyond the one wanted
const AT_ONCE = 3;
const KEPT = 60; // decoded frames, some 2.5 MB each

/** A frame's maps: image and flow as bitmaps, steps (16-bit depth) and mask (0..255) as arrays; null where absent. */
export class Frames {
  /** `arrived(row)` is called when the maps of a row are there. */
  constructor(facts, arrived) {
    Object.assign(this, { facts, arrived, known: new Map(), underway: new Map(), wanted: [] });
  }

  get(row) {
    return this.known.get(row);
  }

  /** Asks for a row and those that follow; what was underway and is wanted no more is given up. */
  want(row) {
    const count = this.facts.rows.length;
    this.wanted = Array.from({ length: Math.min(AHEAD + 1, count) }, (_, k) => (row + k) % count);
    for (const [other, control] of this.underway) {
      if (!this.wanted.includes(other)) control.abort();
    }
    this.next();
  }

  next() {
    for (const row of this.wanted) {
      if (this.underway.size >= AT_ONCE) return;
      if (!this.known.has(row) && !this.underway.has(row)) this.load(row);
    }
  }

  async load(row) {
    const control = new AbortController();
    this.underway.set(row, control);
    try {
      const frame = await fetched(row, this.facts, control.signal);
      this.keep(row, frame);
      this.arrived(row);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      this.underway.delete(row);
      this.next();
    }
  }

  keep(row, frame) {
    this.known.set(row, frame);
    for (const [old, { image, flow }] of this.known) {
      if (this.known.size <= KEPT) break;
      if (this.wanted.includes(old)) continue;
      this.known.delete(old);
      image?.close();
      flow?.close();
    }
  }
}

async function fetched(row, facts, signal) {
  const { maps } = facts.rows[row];
  const errors = [];
  const ask = async (there, path) => {
    if (!there) return null;
    try {
      const answer = await fetch(path, { signal });
      if (!answer.ok) throw new Error((await answer.text()).trim() || `answer ${answer.status}`);
      // raw values: no colour profile of the screen may touch them
      return await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      errors.push(error instanceof TypeError ? "The server does not answer; is glvid view still running?" : error.message);
      return null;
    }
  };
  const [image, depth, flow] = await Promise.all([
    ask(maps.includes("i"), `image/${row}.jpg`),
    ask(maps.includes("d") || maps.includes("m"), `depth/${row}.png`),
    ask(maps.includes("f"), `flow/${row}.png`),
  ]);
  const frame = { image, flow, steps: null, mask: null, pixels: null, errors };
  if (image) frame.pixels = pixelsOf(image);
  if (depth) {
    const { data } = pixelsOf(depth);
    const count = data.length / 4;
    if (maps.includes("d")) frame.steps = new Uint16Array(count);
    if (maps.includes("m")) frame.mask = new Uint8Array(count);
    for (let k = 0, at = 0; k < count; k++, at += 4) {
      if (frame.steps) frame.steps[k] = (data[at] << 8) | data[at + 1];
      if (frame.mask) frame.mask[k] = data[at + 2];
    }
    depth.close();
  }
  return frame;
}

let scratch = null;

function pixelsOf(bitmap) {
  scratch ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  scratch.canvas.width = bitmap.width;
  scratch.canvas.height = bitmap.height;
  scratch.drawImage(bitmap, 0, 0);
  return scratch.getImageData(0, 0, bitmap.width, bitmap.height);
}
