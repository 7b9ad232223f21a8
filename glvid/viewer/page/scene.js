// What is drawn in the 3-D view, with WebGL 2: points, lines, the frame's picture. Knows nothing of runs.

import { LIGHT, LINES, PICTURE, POINTS } from "./shaders.js";

const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

export class Scene {
  /** Throws where the browser has no WebGL 2. `palette`: 256 x 3 bytes. */
  constructor(canvas, palette) {
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This browser has no WebGL 2, so the 3-D view stays empty.");
    Object.assign(this, { canvas, gl, sizes: [0, 0] });
    this.programs = Object.fromEntries(
      Object.entries({ POINTS, LIGHT, LINES, PICTURE }).map(([name, source]) => [name, program(gl, source)]));
    this.clouds = { cloud: cloudBuffers(gl), frame: cloudBuffers(gl) };
    this.lines = { path: lineBuffers(gl), camera: lineBuffers(gl) };
    this.empty = gl.createVertexArray();
    this.palette = texture(gl, gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, 256, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, palette);
    this.picture = texture(gl, gl.LINEAR);
    this.hasPicture = false;
    this.target = { frame: gl.createFramebuffer(), colors: texture(gl, gl.NEAREST), depths: texture(gl, gl.NEAREST) };
  }

  /** Points of "cloud" or "frame": positions (M x 3), colours (M x 3 bytes), distances they were seen from (M). */
  setPoints(name, points) {
    const gl = this.gl;
    const cloud = this.clouds[name];
    for (const part of ["positions", "colors", "distances"]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, cloud[part]);
      gl.bufferData(gl.ARRAY_BUFFER, points[part], gl.DYNAMIC_DRAW);
    }
    cloud.count = points.distances.length;
  }

  /** Segments of "path" or "camera": [from, to, [r, g, b, a], row] each. */
  setLines(name, segments) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lines[name].buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(segments.flat(2)), gl.DYNAMIC_DRAW);
    this.lines[name].count = segments.length;
  }

  /** What fills the frame's image plane; null for nothing. */
  setPicture(bitmap) {
    const gl = this.gl;
    this.hasPicture = Boolean(bitmap);
    if (!bitmap) return;
    gl.bindTexture(gl.TEXTURE_2D, this.picture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, bitmap);
  }

  /** One picture of it all.
   *
   * state: projection, view, near, far, pixels (px of a unit at distance 1), ratio (screen px a CSS px), depthAxis,
   * range, size and grain of the cloud's points, frameSize, byDepth, cut, cloudCount, model (world_T_frame), frameCount,
   * now (row), corners and opacity of the picture, faint (share of what is to come), showCamera, showPicture
   */
  draw(state) {
    const gl = this.gl;
    const { width, height } = this.canvas;
    this.resize(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target.frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    this.drawPoints(state);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.depthFunc(gl.ALWAYS);
    this.drawLight(state);
    gl.depthFunc(gl.LEQUAL);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    if (state.showCamera && state.showPicture && this.hasPicture) this.drawPicture(state);
    gl.depthMask(false);
    if (state.showCamera) {
      this.drawLines("path", 2.5 * state.ratio, state);
      this.drawLines("camera", 2 * state.ratio, state);
    }
    gl.depthMask(true);
  }

  drawPoints(state) {
    const gl = this.gl;
    const at = this.use("POINTS", state);
    gl.uniform4fv(at("depthAxis"), state.depthAxis);
    gl.uniform2fv(at("range"), state.range);
    gl.uniform1f(at("pixels"), state.pixels);
    gl.uniform1f(at("least"), 1.4 * state.ratio);
    gl.uniform1f(at("most"), 40 * state.ratio);
    gl.uniform1i(at("byDepth"), state.byDepth);
    gl.uniform1i(at("cut"), state.cut);
    this.bind(at("palette"), 0, this.palette);
    const parts = [
      ["cloud", state.cloudCount, IDENTITY, state.size, state.grain],
      ["frame", state.frameCount, state.model, state.frameSize, 0],
    ];
    for (const [name, count, model, size, grain] of parts) {
      if (!count) continue;
      gl.uniform1f(at("grain"), grain);
      gl.uniformMatrix4fv(at("model"), false, model);
      gl.uniform1f(at("size"), size);
      gl.bindVertexArray(this.clouds[name].array);
      gl.drawArrays(gl.POINTS, 0, Math.min(count, this.clouds[name].count));
    }
  }

  drawLight(state) {
    const gl = this.gl;
    const at = this.use("LIGHT", state);
    gl.uniform2f(at("limits"), state.near, state.far);
    gl.uniform1f(at("reach"), Math.max(1, state.ratio));
    this.bind(at("colors"), 0, this.target.colors);
    this.bind(at("depths"), 1, this.target.depths);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  drawLines(name, width, state) {
    const gl = this.gl;
    const at = this.use("LINES", state);
    gl.uniform2f(at("screen"), this.canvas.width, this.canvas.height);
    gl.uniform1f(at("width"), width);
    gl.uniform1f(at("now"), state.now);
    gl.uniform1f(at("faint"), state.faint);
    gl.bindVertexArray(this.lines[name].array);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.lines[name].count);
  }

  drawPicture(state) {
    const gl = this.gl;
    const at = this.use("PICTURE", state);
    gl.uniform3fv(at("corners"), state.corners.flat());
    gl.uniform1f(at("opacity"), state.opacity);
    this.bind(at("picture"), 0, this.picture);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  use(name, state) {
    const gl = this.gl;
    const { handle, at } = this.programs[name];
    gl.useProgram(handle);
    if (at("projection")) gl.uniformMatrix4fv(at("projection"), false, state.projection);
    if (at("view")) gl.uniformMatrix4fv(at("view"), false, state.view);
    return at;
  }

  bind(location, unit, handle) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, handle);
    gl.uniform1i(location, unit);
    gl.activeTexture(gl.TEXTURE0);
  }

  /** The points' own framebuffer is as large as the canvas. */
  resize(width, height) {
    if (this.sizes[0] === width && this.sizes[1] === height) return;
    const gl = this.gl;
    const { frame, colors, depths } = this.target;
    gl.bindTexture(gl.TEXTURE_2D, colors);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindTexture(gl.TEXTURE_2D, depths);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.DEPTH_COMPONENT24, width, height, 0, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, colors, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, depths, 0);
    this.sizes = [width, height];
  }
}

function program(gl, [vertex, fragment]) {
  const handle = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
  }
  gl.linkProgram(handle);
  if (!gl.getProgramParameter(handle, gl.LINK_STATUS)) {
    const logs = gl.getAttachedShaders(handle).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`The graphics driver refuses a shader: ${gl.getProgramInfoLog(handle)} ${logs.join(" ")}`);
  }
  const known = new Map();
  const at = (name) => {
    if (!known.has(name)) known.set(name, gl.getUniformLocation(handle, name));
    return known.get(name);
  };
  return { handle, at };
}

function texture(gl, filter) {
  const handle = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, handle);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  return handle;
}

function cloudBuffers(gl) {
  const cloud = { array: gl.createVertexArray(), count: 0 };
  gl.bindVertexArray(cloud.array);
  const parts = [["positions", 3, gl.FLOAT], ["colors", 3, gl.UNSIGNED_BYTE], ["distances", 1, gl.FLOAT]];
  parts.forEach(([name, size, type], location) => {
    cloud[name] = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, cloud[name]);
    gl.vertexAttribPointer(location, size, type, type !== gl.FLOAT, 0, 0);
    gl.enableVertexAttribArray(location);
  });
  return cloud;
}

function lineBuffers(gl) {
  const lines = { array: gl.createVertexArray(), buffer: gl.createBuffer(), count: 0 };
  gl.bindVertexArray(lines.array);
  gl.bindBuffer(gl.ARRAY_BUFFER, lines.buffer);
  [[3, 0], [3, 12], [4, 24], [1, 40]].forEach(([size, offset], location) => {
    gl.vertexAttribPointer(location, size, gl.FLOAT, false, 44, offset);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribDivisor(location, 1);
  });
  return lines;
}
