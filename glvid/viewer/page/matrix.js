// Vectors are arrays of 3; matrices are 16 numbers, column by column, as WebGL takes them.

export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const scaled = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const length = (a) => Math.hypot(a[0], a[1], a[2]);
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const mixed = (a, b, t) => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];

export function unit(a, otherwise = [0, 0, 1]) {
  const size = length(a);
  return size > 1e-9 ? scaled(a, 1 / size) : otherwise;
}

/** The 4 x 4 matrix of a pose given as 3 x 4, row by row. */
export function ofPose(p) {
  return [p[0], p[4], p[8], 0, p[1], p[5], p[9], 0, p[2], p[6], p[10], 0, p[3], p[7], p[11], 1];
}

/** Centre, right, down and forward of a camera's pose (world_T_cam, 3 x 4 row by row). */
export function axes(p) {
  return { at: [p[3], p[7], p[11]], x: [p[0], p[4], p[8]], y: [p[1], p[5], p[9]], z: [p[2], p[6], p[10]] };
}

/** World to eye coordinates of a viewer at `eye`; right, up and back are unit vectors. */
export function viewOf(eye, right, up, back) {
  const row = (a) => [...a, -dot(a, eye)];
  const [x, y, z] = [row(right), row(up), row(back)];
  return [x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, x[3], y[3], z[3], 1];
}

/** Perspective: `focal` is half the height over its distance's tangent, i.e. 1 / tan(half the vertical field of view).
 * `shift` moves the picture, in half heights and widths (1 = the border). */
export function perspective(focal, aspect, near, far, shift = [0, 0]) {
  const depth = near - far;
  return [focal / aspect, 0, 0, 0, 0, focal, 0, 0, -shift[0], -shift[1], (near + far) / depth, -1, 0, 0,
    (2 * near * far) / depth, 0];
}
