"""The script of the pictures: one slice at a time, zoom, and a cursor at the same place in all of its pictures.

The page is complete without it: all slices are then shown, one below the other.
"""

PICTURE_SCRIPT = r"""
"use strict";
for (const box of document.querySelectorAll(".slices")) {
  const slices = [...box.querySelectorAll(".slice")];
  const tools = document.createElement("div");
  const spot = document.createElement("span");
  const factor = document.createElement("span");
  let zoom = 1, left = 0, top = 0, start = null;

  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.title = label;
    made.addEventListener("click", act);
    tools.append(made);
    return made;
  };
  const inside = value => Math.min(Math.max(value, 0), 1 - 1 / zoom);
  const place = () => {
    left = inside(left);
    top = inside(top);
    for (const [name, value] of [["zoom", zoom], ["left", left], ["top", top]])
      box.style.setProperty("--" + name, value);
    box.classList.toggle("zoomed", zoom > 1);
    factor.textContent = zoom + "\u00d7";
  };
  // Keeps the point (u, v) of the view, in fractions of its sides, where it is.
  const zoomTo = (wanted, u, v) => {
    const x = left + u / zoom, y = top + v / zoom;
    zoom = Math.min(Math.max(wanted, 1), 16);
    left = x - u / zoom;
    top = y - v / zoom;
    place();
  };
  const pointOf = (view, event) => {
    const frame = view.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  };
  const show = chosen => slices.forEach((slice, index) => {
    slice.hidden = index !== chosen;
    if (slices.length > 1) choices[index].setAttribute("aria-pressed", index === chosen);
  });

  tools.className = "tools";
  const choices = slices.length < 2 ? [] : slices.map((slice, index) =>
    button(slice.querySelector(".which").textContent, "show this slice", () => show(index)));
  button("\u2212", "zoom out", () => zoomTo(zoom / 2, 0.5, 0.5));
  tools.append(factor);
  button("+", "zoom in; a click on a picture does so, too, with Shift it zooms out; drag, or arrow keys, to move",
    () => zoomTo(zoom * 2, 0.5, 0.5));
  if (box.querySelector(".outlines")) {
    const outlines = button("outlines", "show or hide the outlines of labels and predictions", () =>
      outlines.setAttribute("aria-pressed", !box.classList.toggle("bare")));
    outlines.setAttribute("aria-pressed", true);
  }
  tools.append(spot);
  spot.className = "spot";
  box.prepend(tools);
  tools.addEventListener("keydown", event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!step || zoom === 1) return;
    event.preventDefault();
    left += step[0] / (4 * zoom);
    top += step[1] / (4 * zoom);
    place();
  });

  for (const view of box.querySelectorAll(".view")) {
    const image = view.querySelector("img");
    image.draggable = false;
    view.addEventListener("pointermove", event => {
      const [u, v] = pointOf(view, event);
      if (start && event.buttons) {
        left = start.left - (u - start.u) / zoom;
        top = start.top - (v - start.v) / zoom;
        place();
      }
      box.style.setProperty("--u", u);
      box.style.setProperty("--v", v);
      box.classList.add("pointed");
      const row = Math.floor((top + v / zoom) * image.naturalHeight);
      const column = Math.floor((left + u / zoom) * image.naturalWidth);
      spot.textContent = "row " + row + ", column " + column;
    });
    view.addEventListener("pointerleave", () => {
      start = null;
      box.classList.remove("pointed");
      spot.textContent = "";
    });
    view.addEventListener("pointerdown", event => {
      const [u, v] = pointOf(view, event);
      start = {u, v, left, top};
    });
    view.addEventListener("pointerup", event => {
      const [u, v] = pointOf(view, event);
      if (start && Math.hypot(u - start.u, v - start.v) < 0.02)
        zoomTo(event.shiftKey ? zoom / 2 : zoom < 16 ? zoom * 2 : 1, u, v);
      start = null;
    });
  }
  place();
  show(0);
}
"""
