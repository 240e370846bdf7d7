/** Elements made by hand. Text goes in as text, so nothing from the data can become markup. */

/** The element with this id. */
export const find = (id) => document.getElementById(id);

/** Make an HTML element: attributes by name (a function is a listener), children or text. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const counts = new Intl.NumberFormat("en");

/** 12345 -> "12,345". */
export const count = (value) => counts.format(value);

/** "1 item", "2 items". */
export const several = (value, one, many = `${one}s`) =>
  `${count(value)} ${Number(value) === 1 ? one : many}`;

/** A score or a figure with about four digits that matter; "–" where there is none. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return count(Math.round(value));
  if (size >= 100) return value.toFixed(1);
  if (size >= 10) return value.toFixed(2);
  if (size >= 0.001 || size === 0) return value.toFixed(4);
  return value.toExponential(2);
}
