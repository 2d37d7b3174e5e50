"use strict";
// Draws the pictures; the theme's colours stand for "@ink" and others.
(() => {
  const root = document.documentElement;
  const pictures = [...document.querySelectorAll(".picture")];
  const drawn = new Set();
  const narrow = () => window.innerWidth < 600;

  function spec(picture) {
    const style = getComputedStyle(root);
    const text = document.getElementById(picture.id + "-spec").textContent
      .replace(/"@(ink|soft|grid|paper)"/g, (_, name) => JSON.stringify(style.getPropertyValue("--" + name).trim()));
    const made = JSON.parse(text);
    if (narrow()) {
      made.layout.font.size = 10;
      made.layout.dragmode = false;
      made.layout.margin = { l: 4, r: 10, t: 8, b: 8 };
      Object.assign(made.layout.legend, { y: 0, yref: "container", yanchor: "bottom" });
      for (const trace of made.data) if (trace.textfont) trace.textfont.size = 9;
    }
    return made;
  }

  function draw(picture) {
    const made = spec(picture);
    drawn.add(picture);
    if (narrow() && made.data.length > 6 && made.layout.barmode === "stack") {
      picture.style.height = made.data.length * 16 + 300 + "px";
    }
    Plotly.react(picture, made.data, made.layout, {
      responsive: true, displaylogo: false,
      displayModeBar: false,
    });
  }

  // One after another, so that the page can be read and scrolled meanwhile.
  const next = () => {
    const picture = pictures.find((one) => !drawn.has(one));
    if (picture) { draw(picture); setTimeout(next); }
  };
  setTimeout(next);
  window.addEventListener("beforeprint", () => pictures.forEach((p) => drawn.has(p) || draw(p)));

  const button = document.querySelector("button.theme");
  const other = () => (root.dataset.theme === "dark" ? "light" : "dark");
  const name = () => { button.textContent = other() + " theme"; };
  button.addEventListener("click", () => {
    root.dataset.theme = other();
    name();
    drawn.forEach(draw);
  });
  name();
})();
