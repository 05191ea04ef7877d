// What every script of the page uses: elements, and figures as text.

export const $ = (id) => document.getElementById(id);
export const made = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};
// a name inside a sentence: its direction ends with it, and it cannot turn what follows
export const isolated = (name) => made("bdi", { textContent: name });
export const percent = (p) => `${(100 * p).toFixed(1)}%`;
export const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
export const count = (n) => n.toLocaleString("en");
