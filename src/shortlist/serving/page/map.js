/** Items as points in the plane, on a canvas: what was met, what is offered, and all the rest. */

const REACH = 14; // pixels from a point within which the pointer means it
const CLOSEST = 24; // times nearer than the whole map

export class ItemMap {
  /** shown(index or -1): the pointer or a key is on an item; opened(index): it was chosen. */
  constructor(canvas, tip, shown, opened) {
    Object.assign(this, { canvas, tip, shown, opened });
    this.paint = canvas.getContext("2d");
    this.points = null;
    this.at = -1;
    this.chosen = null;
    this.met = new Set();
    this.offered = new Set();
    this.whole();
    new ResizeObserver(() => this.fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.render());
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => this.point(-1));
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointerup", (event) => this.drop(event));
    canvas.addEventListener("pointercancel", () => (this.held = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.point(-1));
  }

  /** Take the columns of /v1/map: items, titles, x, y, counts. */
  load(columns) {
    const { items, x, y, counts } = columns;
    const [left, right] = ends(x);
    const [low, high] = ends(y);
    const half = Math.max(right - left, high - low, 1e-9) / 2; // one scale for both directions
    const most = Math.max(1, ...counts);
    this.points = {
      ...columns,
      px: x.map((value) => (value - (left + right) / 2) / half),
      py: y.map((value) => ((low + high) / 2 - value) / half),
      radius: counts.map((value) => 1.4 + 5 * Math.sqrt(value / most)),
    };
    this.row = new Map(items.map((id, index) => [id, index]));
    // The most met first, so that small points are not hidden under large ones.
    this.order = items.map((_, index) => index).sort((a, b) => counts[b] - counts[a]);
    this.whole();
    this.fit();
  }

  /** Say which items stand out: ids that were met, ids that are offered, the id in hand. */
  mark(met, offered, chosen) {
    this.met = new Set(met);
    this.offered = new Set(offered);
    this.chosen = chosen;
    this.render();
  }

  /** How many of these ids are drawn. */
  holds(ids) {
    return this.points ? ids.filter((id) => this.row.has(id)).length : 0;
  }

  /** How often an item was met in training; undefined where it is not drawn. */
  count(id) {
    return this.points?.counts[this.row.get(id)];
  }

  whole() {
    this.scale = 1;
    this.centre = [0, 0];
    this.canvas.classList.remove("near");
    this.render();
  }

  zoom(factor) {
    this.scale = Math.min(CLOSEST, Math.max(1, this.scale * factor));
    if (this.scale === 1) this.centre = [0, 0];
    this.canvas.classList.toggle("near", this.scale > 1);
    this.render();
  }

  fit() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.render();
  }

  get unit() {
    const { clientWidth, clientHeight } = this.canvas;
    return (Math.min(clientWidth, clientHeight) / 2 - 12) * this.scale;
  }

  /** Where a point lies on the canvas, in pixels of the page. */
  place(index) {
    const { clientWidth, clientHeight } = this.canvas;
    return [
      clientWidth / 2 + (this.points.px[index] - this.centre[0]) * this.unit,
      clientHeight / 2 + (this.points.py[index] - this.centre[1]) * this.unit,
    ];
  }

  render() {
    if (!this.points || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.redraw();
    });
  }

  redraw() {
    if (!this.points) return; // taken away while the frame was awaited
    const { paint, canvas, points } = this;
    const style = getComputedStyle(canvas);
    const ink = (name) => style.getPropertyValue(name).trim();
    const ratio = window.devicePixelRatio || 1;
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    const larger = Math.min(2, Math.sqrt(this.scale));
    const { items, radius } = points;
    const met = [];
    const offered = [];
    paint.fillStyle = ink("--map-other");
    for (const index of this.order) {
      if (this.offered.has(items[index])) offered.push(index);
      else if (this.met.has(items[index])) met.push(index);
      else {
        paint.beginPath();
        paint.arc(...this.place(index), radius[index] * larger, 0, 7);
        paint.fill();
      }
    }
    paint.lineWidth = 1.5;
    paint.strokeStyle = ink("--card");
    paint.fillStyle = ink("--met");
    for (const index of met) this.diamond(index, Math.max(4.5, radius[index] * larger + 1));
    paint.fillStyle = ink("--accent");
    for (const index of offered) this.disc(index, Math.max(4.5, radius[index] * larger + 1));
    // An item that was met and is offered all the same wears both.
    paint.fillStyle = ink("--met");
    for (const index of offered) if (this.met.has(items[index])) this.diamond(index, 3.5);
    paint.lineWidth = 2;
    paint.strokeStyle = ink("--ink");
    const chosen = this.row.get(this.chosen);
    for (const index of new Set([chosen, this.at])) {
      if (index === undefined || index < 0) continue;
      paint.beginPath();
      paint.arc(...this.place(index), radius[index] * larger + 6, 0, 7);
      paint.stroke();
    }
  }

  disc(index, size) {
    this.paint.beginPath();
    this.paint.arc(...this.place(index), size, 0, 7);
    this.paint.fill();
    this.paint.stroke();
  }

  diamond(index, size) {
    const [x, y] = this.place(index);
    const reach = size * 1.25;
    this.paint.beginPath();
    this.paint.moveTo(x, y - reach);
    this.paint.lineTo(x + reach, y);
    this.paint.lineTo(x, y + reach);
    this.paint.lineTo(x - reach, y);
    this.paint.closePath();
    this.paint.fill();
    this.paint.stroke();
  }

  hover(event) {
    if (!this.points) return;
    if (this.held) {
      const [x, y] = [event.offsetX - this.held.x, event.offsetY - this.held.y];
      this.held.moved ||= Math.hypot(x, y) > 4;
      if (this.scale > 1 && this.held.moved) {
        const [right, down] = this.held.centre;
        this.centre = [right - x / this.unit, down - y / this.unit];
        this.point(-1);
        this.render();
      }
      return;
    }
    this.point(this.nearest(event.offsetX, event.offsetY));
  }

  grab(event) {
    const { offsetX: x, offsetY: y } = event;
    this.held = { x, y, centre: this.centre, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  }

  drop(event) {
    const { moved = true } = this.held ?? {};
    this.held = null;
    if (moved || !this.points) return;
    const index = this.nearest(event.offsetX, event.offsetY);
    this.point(index);
    if (index >= 0) this.opened(index);
  }

  /** The point under the pointer: of those that stand out, if one of them is in reach. */
  nearest(x, y) {
    let [found, best] = [-1, REACH];
    for (let index = 0; index < this.points.items.length; index += 1) {
      const [px, py] = this.place(index);
      const stands = this.stands(index) ? REACH / 2 : 0;
      const far = Math.hypot(px - x, py - y);
      if (far <= REACH && far - stands < best) [found, best] = [index, far - stands];
    }
    return found;
  }

  stands(index) {
    const id = this.points.items[index];
    return this.offered.has(id) || this.met.has(id);
  }

  key(event) {
    if (!this.points) return;
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key in ways) {
      event.preventDefault();
      const next = this.at < 0 ? this.first() : this.beyond(...ways[event.key]);
      if (next >= 0) this.point(next);
    } else if (event.key === "Enter" && this.at >= 0) {
      event.preventDefault();
      this.opened(this.at);
    } else if (event.key === "Escape") {
      this.point(-1);
    } else if (event.key === "+" || event.key === "-") {
      this.zoom(event.key === "+" ? 1.6 : 1 / 1.6);
    }
  }

  /** Where the keys begin: the item in hand, else the first that stands out, else the most met. */
  first() {
    const chosen = this.row.get(this.chosen);
    if (chosen !== undefined) return chosen;
    return this.order.find((index) => this.stands(index)) ?? this.order[0] ?? -1;
  }

  /** The next point in a direction: of those that stand out, where there are any. */
  beyond(right, down) {
    const some = this.order.some((index) => index !== this.at && this.stands(index));
    const [x, y] = this.place(this.at);
    let [found, best] = [-1, Infinity];
    for (const index of this.order) {
      if (index === this.at || (some && !this.stands(index))) continue;
      const [px, py] = this.place(index);
      const ahead = (px - x) * right + (py - y) * down;
      const aside = Math.abs((px - x) * down) + Math.abs((py - y) * right);
      if (ahead > 0.5 && ahead + 2 * aside < best) [found, best] = [index, ahead + 2 * aside];
    }
    return found;
  }

  point(index) {
    if (index === this.at) return;
    this.at = index;
    this.tip.hidden = index < 0;
    if (index >= 0) {
      const [x, y] = this.place(index);
      this.tip.textContent = this.points.titles[index];
      const room = this.canvas.clientWidth - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, Math.min(room, x - this.tip.offsetWidth / 2))}px`;
      this.tip.style.top = `${y > 48 ? y - this.tip.offsetHeight - 12 : y + 14}px`;
    }
    this.shown(index);
    this.render();
  }
}

function ends(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 0];
}
