// the value under the pointer, and the preview at that frame; without it the page is as complete
"use strict";
const film = document.querySelector("video");
for (const plot of document.querySelectorAll("svg.plot")) {
  const list = name => plot.dataset[name].split(",").map(v => v === "" ? NaN : Number(v));
  const axis = name => plot.dataset[name].split(" ").map(Number);
  const [xs, ys, u, v] = [list("x"), list("y"), axis("u"), axis("v")];
  const on = (a, value) => a[2] + (value - a[0]) / (a[1] - a[0]) * (a[3] - a[2]);
  const make = (name, kind) => {
    const made = plot.appendChild(document.createElementNS(plot.namespaceURI, name));
    made.setAttribute("class", kind);
    return made;
  };
  const [line, dot, said] = [make("line", "here"), make("circle", "at"), make("text", "said")];
  const marks = [line, dot, said];
  const hide = () => marks.forEach(mark => mark.setAttribute("visibility", "hidden"));
  const set = (mark, values) => Object.entries(values).forEach(([k, value]) => mark.setAttribute(k, value));
  const nearest = event => {
    const box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
    let best = 0;
    xs.forEach((value, k) => { if (Math.abs(on(u, value) - x) < Math.abs(on(u, xs[best]) - x)) best = k; });
    return best;
  };
  hide();
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointermove", event => {
    const k = nearest(event), x = on(u, xs[k]), known = !Number.isNaN(ys[k]);
    marks.forEach(mark => mark.removeAttribute("visibility"));
    set(line, {x1: x, x2: x, y1: v[2], y2: v[3]});
    set(dot, {cx: x, cy: known ? on(v, ys[k]) : v[2], r: known ? 3.2 : 0});
    const end = x > plot.viewBox.baseVal.width / 2;
    set(said, {x: x + (end ? -6 : 6), y: v[3] + 9, "text-anchor": end ? "end" : "start"});
    said.textContent = plot.dataset.name + " " + xs[k] + ": " + (known ? ys[k] + " " + plot.dataset.unit : "unknown");
  });
  if (film && "frames" in plot.dataset) plot.addEventListener("click", event => {
    const rows = Number(film.dataset.rows);
    if (film.duration) { film.pause(); film.currentTime = film.duration * (xs[nearest(event)] + 0.5) / rows; }
  });
}
