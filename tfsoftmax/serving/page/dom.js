// What every script of the page uses: elements, and figures as text.

export const $ = (id) => document.getElementById(id);
export const made = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};
export const percent = (p) => `${(100 * p).toFixed(1)}%`;
export const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
export const count = (n) => n.toLocaleString("en");
