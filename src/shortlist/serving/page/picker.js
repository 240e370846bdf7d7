/** A text field that offers what fits while one types: the combobox pattern of WAI-ARIA. */

import { make } from "./dom.js";

const PAUSE = 120; // milliseconds without a key before the service is asked

export class Picker {
  /**
   * offers(text) -> {choices: [{value, label, note}], more: a line of text or "", asIs: whether
   * Enter takes the text as it is, also where there is one choice only}, or a promise.
   * pick(value): a choice was taken.
   */
  constructor(input, list, offers, pick) {
    Object.assign(this, { input, list, offers, pick, choices: [], at: -1, turn: 0,
      due: false });
    input.addEventListener("input", () => this.soon());
    input.addEventListener("focus", () => this.soon(0));
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.key(event));
    // Else the field would lose the focus, and the list with it, before the click comes.
    list.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  soon(wait = PAUSE) {
    this.due = true; // what is listed is of another text
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), wait);
  }

  async open() {
    const turn = ++this.turn;
    const { choices, more, asIs = false } = await this.offers(this.input.value.trim());
    if (turn !== this.turn || document.activeElement !== this.input) return;
    this.due = false;
    this.choices = choices;
    this.only = choices.length === 1 && !asIs;
    this.at = -1;
    const options = choices.map(({ label, note }, index) =>
      make(
        "div",
        {
          role: "option",
          id: `${this.list.id}-${index}`,
          class: "option",
          "aria-selected": "false",
          click: () => this.take(index),
        },
        make("span", {}, label),
        note ? make("span", { class: "quiet" }, note) : null,
      ),
    );
    const last = more ? [make("div", { class: "more", role: "presentation" }, more)] : [];
    this.list.replaceChildren(...options, ...last);
    this.show(options.length > 0 || last.length > 0);
    this.point(-1);
  }

  close() {
    clearTimeout(this.timer);
    this.turn += 1;
    this.due = this.only = false;
    this.choices = [];
    this.show(false);
    this.point(-1);
  }

  show(open) {
    this.list.hidden = !open;
    this.input.setAttribute("aria-expanded", String(open));
  }

  point(index) {
    this.at = index;
    [...this.list.querySelectorAll("[role=option]")].forEach((option, place) => {
      option.setAttribute("aria-selected", String(place === index));
      if (place === index) option.scrollIntoView({ block: "nearest" });
    });
    if (index < 0) this.input.removeAttribute("aria-activedescendant");
    else this.input.setAttribute("aria-activedescendant", `${this.list.id}-${index}`);
  }

  take(index) {
    const { value } = this.choices[index];
    this.close();
    this.pick(value);
  }

  /** Take the only choice; without one, the form takes the text as it is. */
  async enter() {
    clearTimeout(this.timer);
    if (this.due) await this.open();
    if (this.due) return; // another text meanwhile
    if (this.only) {
      this.take(0);
      return;
    }
    this.close();
    this.input.form.requestSubmit();
  }

  key(event) {
    const open = !this.list.hidden && this.choices.length > 0;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) {
        this.open();
        return;
      }
      const size = this.choices.length + 1; // one place more: the typed text itself
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.point(((this.at + 1 + step + size) % size) - 1);
    } else if (event.key === "Enter" && open && this.at >= 0) {
      event.preventDefault();
      this.take(this.at);
    } else if (event.key === "Enter" && this.input.value.trim() && (this.due || this.only)) {
      event.preventDefault();
      this.enter();
    } else if (event.key === "Enter") {
      this.close(); // the form takes the text as it is
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault();
      this.close();
    }
  }
}
