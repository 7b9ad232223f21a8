// Points: the fused cloud as it comes from the server, and those of a single frame, made of its maps.

const BEND = 0.04; // relative second difference of inverse depth, above which a pixel hangs between two surfaces
const GREY = 150;

export const NONE = { positions: new Float32Array(0), distances: new Float32Array(0), colors: new Uint8Array(0) };

/** The cloud: positions, colours, how many points were seen up to and including each row, and the distance each was
 * first seen from, for what is far was sampled coarsely. */
export function readCloud(buffer, rows) {
  const [count, length] = new Uint32Array(buffer, 0, 2);
  const upto = new Uint32Array(buffer, 8, length);
  const start = 8 + 4 * length;
  const positions = new Float32Array(buffer, start, 3 * count);
  const distances = new Float32Array(count);
  for (let row = 0, k = 0; row < length; row++) {
    const [x, y, z] = [3, 7, 11].map((n) => rows[row].pose[n]);
    for (; k < upto[row]; k++) {
      distances[k] = Math.hypot(positions[3 * k] - x, positions[3 * k + 1] - y, positions[3 * k + 2] - z);
    }
  }
  return { count, upto, positions, distances, colors: new Uint8Array(buffer, start + 12 * count, 3 * count) };
}

/** A frame's points in its camera's coordinates: what moves on its own, and with `all` the rest too. */
export function framePoints(frame, facts, all) {
  const { steps, mask, pixels } = frame;
  if (!steps || !(mask || all)) return NONE;
  const [width, height] = facts.sent;
  const [fx, cx] = [facts.camera.fx, facts.camera.cx].map((value) => (value * width) / facts.size[0]);
  const [fy, cy] = [facts.camera.fy, facts.camera.cy].map((value) => (value * height) / facts.size[1]);
  const chosen = pixelsShown(steps, mask, width, height, all ? 0 : facts.moving * 255);
  const positions = new Float32Array(3 * chosen.length);
  const distances = new Float32Array(chosen.length);
  const colors = new Uint8Array(3 * chosen.length).fill(GREY);
  chosen.forEach((pixel, k) => {
    const z = steps[pixel] * facts.depth.scale;
    positions[3 * k] = (((pixel % width) + 0.5 - cx) / fx) * z;
    positions[3 * k + 1] = ((Math.floor(pixel / width) + 0.5 - cy) / fy) * z;
    positions[3 * k + 2] = distances[k] = z;
    for (let c = 0; pixels && c < 3; c++) colors[3 * k + c] = pixels.data[4 * pixel + c];
  });
  return { positions, distances, colors };
}

/** Numbers of the pixels whose mask is at least `least`, whose depth is known, and that lie on no depth edge. */
function pixelsShown(steps, mask, width, height, least) {
  const chosen = new Uint32Array(steps.length);
  let count = 0;
  for (let y = 1; y < height - 1; y++) {
    for (let pixel = y * width + 1, end = pixel + width - 2; pixel < end; pixel++) {
      if ((least && mask[pixel] < least) || !steps[pixel] || steps[pixel] === 65535) continue;
      const twice = 2 / steps[pixel];
      const bent = Math.max(
        Math.abs(1 / steps[pixel - 1] - twice + 1 / steps[pixel + 1]),
        Math.abs(1 / steps[pixel - width] - twice + 1 / steps[pixel + width]));
      if (bent <= (BEND / 2) * twice) chosen[count++] = pixel;
    }
  }
  return chosen.subarray(0, count);
}
