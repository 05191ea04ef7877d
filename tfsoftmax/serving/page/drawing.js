// The drawing area: strokes by mouse, finger or arrow keys become a picture.

import { $, made } from "./dom.js";

// forget(): what was given before; hasPicture(): whether a file was; give(drawing): the strokes as a PNG, when they end
export function setUpDrawing({ forget, hasPicture, give }) {
  const canvas = $("draw");
  const sheet = made("canvas", { width: 280, height: 280 }); // the strokes, light on dark
  const pen = sheet.getContext("2d");
  let from = null;
  let cursor = [140, 140];
  const clear = () => {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, 280, 280);
  };
  const copy = () => {
    canvas.width = canvas.height = 280;
    canvas.getContext("2d").drawImage(sheet, 0, 0);
  };
  const begin = () => {
    if (!hasPicture() && sheet.drawn) return;
    forget();
    $("invert").checked = false;
    clear();
    sheet.drawn = true;
  };
  const stroke = (a, b) => {
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round" });
    pen.beginPath();
    pen.moveTo(...a);
    pen.lineTo(...b);
    pen.stroke();
    copy();
  };
  const finish = () => sheet.toBlob(give, "image/png");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.x) * 280) / box.width, ((event.clientY - box.y) * 280) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    begin();
    canvas.setPointerCapture(event.pointerId);
    from = place(event);
    stroke(from, from);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    stroke(from, place(event));
    from = place(event);
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => {
      if (from) finish();
      from = null;
    });
  const steps = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };
  let painting = false;
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (step) {
      const to = cursor.map((value, k) => Math.max(0, Math.min(280, value + step[k])));
      if (painting) stroke(cursor, to);
      cursor = to;
    } else if (event.key === " ") {
      begin();
      painting = true;
      stroke(cursor, cursor);
    } else if (event.key === "Delete" || event.key === "Backspace") $("clear").click();
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    painting = false;
    finish();
  });
  $("clear").addEventListener("click", () => {
    forget();
    clear();
    copy();
    sheet.drawn = true;
    canvas.focus();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#samples")) sheet.drawn = false;
  });
  clear();
  copy();
}
