// An ONNX file through ONNX Runtime Web under Node.
// Usage: node ort_web.mjs MODULES MODEL IMAGES ROWS, with IMAGES the bytes of 28x28 uint8 rows; prints JSON.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const [modules, model, images, rows] = process.argv.slice(2);
const ort = createRequire(path.join(path.resolve(modules), "x.js"))("onnxruntime-web");
const session = await ort.InferenceSession.create(fs.readFileSync(model));
const image = new ort.Tensor("uint8", new Uint8Array(fs.readFileSync(images)), [Number(rows), 28, 28]);
const answers = await session.run({ image });
console.log(JSON.stringify({
  class_id: Array.from(answers.class_id.data, Number),
  label: answers.label.data,
  logits: Array.from(answers.logits.data),
}));
