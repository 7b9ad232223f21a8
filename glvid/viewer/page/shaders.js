// The shaders: points, the light that shows their shape, lines with a width, the picture in the camera.

const HEAD = "#version 300 es\nprecision highp float;\n";

/** Points in their own colours or coloured by their depth in the frame's camera; each as large
 * as the pixel it was seen in, times `size`, and no smaller than `grain`. */
export const POINTS = [`${HEAD}
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 color;
layout(location = 2) in float distance;
uniform mat4 projection, view, model;
uniform vec4 depthAxis;  // depth of a world point in the frame's camera
uniform vec2 range;
uniform float size, grain, pixels, least, most;
uniform bool byDepth, cut;
uniform sampler2D palette;
out vec3 shade;
void main() {
  vec4 world = model * vec4(position, 1.0);
  vec4 eye = view * world;
  gl_Position = projection * eye;
  gl_PointSize = clamp(max(grain, size * distance) * pixels / max(-eye.z, 1e-6), least, most);
  float z = dot(depthAxis, world);
  if (cut && z > 0.0 && (z < range.x || z > range.y)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  float level = z > 0.0 ? (1.0 / z - 1.0 / range.y) / (1.0 / range.x - 1.0 / range.y) : 1.0;
  shade = byDepth ? texture(palette, vec2(clamp(level, 0.002, 0.998), 0.5)).rgb : color;
}`, `${HEAD}
in vec3 shade;
out vec4 result;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.3) discard;
  result = vec4(shade, 1.0);
}`];

/** Eye-dome lighting: what lies behind its neighbours is darker, so that edges and folds show without normals. */
export const LIGHT = [`${HEAD}
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`, `${HEAD}
uniform sampler2D colors, depths;
uniform vec2 limits;  // near, far
uniform float reach;  // px
out vec4 result;
float logDepth(ivec2 at) {
  float d = texelFetch(depths, clamp(at, ivec2(0), textureSize(depths, 0) - 1), 0).r;
  float z = limits.x * limits.y / (limits.y - d * (limits.y - limits.x));
  return d < 1.0 ? log2(z) : 1e3;
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  float depth = texelFetch(depths, at, 0).r;
  gl_FragDepth = depth;
  vec2 p = gl_FragCoord.xy / vec2(textureSize(depths, 0));
  if (depth >= 1.0) {
    float glow = exp(-dot(p - vec2(0.5, 0.42), (p - vec2(0.5, 0.42)) * vec2(2.4, 4.0)));
    result = vec4(mix(vec3(0.027, 0.035, 0.055), vec3(0.075, 0.094, 0.137), glow), 1.0);
    return;
  }
  float here = logDepth(at), sum = 0.0;
  int r = int(reach + 0.5);
  ivec2 around[8] = ivec2[8](ivec2(r, 0), ivec2(-r, 0), ivec2(0, r), ivec2(0, -r),
    ivec2(r, r), ivec2(-r, r), ivec2(r, -r), ivec2(-r, -r));
  for (int k = 0; k < 8; k++) sum += clamp(here - logDepth(at + around[k]) - 0.012, 0.0, 0.4);
  result = vec4(texelFetch(colors, at, 0).rgb * (0.35 + 0.65 * exp(-2.2 * sum)), 1.0);
}`];

/** Lines `width` px wide, one instance a segment; those of rows to come are faint. */
export const LINES = [`${HEAD}
layout(location = 0) in vec3 from;
layout(location = 1) in vec3 to;
layout(location = 2) in vec4 color;
layout(location = 3) in float row;
uniform mat4 projection, view;
uniform vec2 screen;
uniform float width, now, faint;
out vec4 shade;
out float side;
void main() {
  vec4 a = projection * view * vec4(from, 1.0), b = projection * view * vec4(to, 1.0);
  float near = 1e-4;  // what lies behind the viewer is cut off, for it has no place on the screen
  if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < near) a = mix(b, a, (b.w - near) / (b.w - a.w));
  if (b.w < near) b = mix(a, b, (a.w - near) / (a.w - b.w));
  vec2 along = (b.xy / b.w - a.xy / a.w) * screen;
  vec2 across = normalize(vec2(-along.y, along.x) + vec2(1e-9, 0.0)) * (width + 1.0) / screen;
  side = float(gl_VertexID & 1) * 2.0 - 1.0;
  vec4 end = gl_VertexID < 2 ? a : b;
  gl_Position = end + vec4(across * side * end.w, 0.0, 0.0);
  gl_Position.z -= 2e-5 * end.w;
  shade = vec4(color.rgb, color.a * (row <= now ? 1.0 : faint));
}`, `${HEAD}
in vec4 shade;
in float side;
uniform float width;
out vec4 result;
void main() {
  result = vec4(shade.rgb, shade.a * clamp((1.0 - abs(side)) * (width + 1.0), 0.0, 1.0));
}`];

/** The frame on the image plane of its camera; seen from both sides. */
export const PICTURE = [`${HEAD}
uniform mat4 projection, view;
uniform vec3 corners[4];
out vec2 at;
void main() {
  at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = projection * view * vec4(corners[gl_VertexID], 1.0);
}`, `${HEAD}
in vec2 at;
uniform sampler2D picture;
uniform float opacity;
out vec4 result;
void main() {
  result = vec4(texture(picture, at).rgb, opacity);
}`];
