/** Act as a user: a click on an item is sent as an event of that user, and the list follows it. */

import { Refused, isLocked } from "./api.js";
import { find, make } from "./dom.js";
import { newId, tokenForm } from "./live.js";

const FINAL = ["invalid_request", "not_supported", "forbidden"]; // the same event gets no other answer

const on = find("act-on");

export class Acting {
  /**
   * live: sends events. changed(): whether one acts has changed. done(event, number): an event was
   * kept under this number.
   */
  constructor(live, changed, done) {
    Object.assign(this, { live, done, user: undefined });
    on.addEventListener("change", () => {
      find("act-more").hidden = !on.checked;
      find("act-said").replaceChildren();
      changed();
    });
  }

  /**
   * Offer it for a user; for nobody where undefined, or where the service keeps no events.
   * request: the id of the list that is shown.
   */
  offer(user, request = undefined) {
    Object.assign(this, { user, request });
    find("act").hidden = user === undefined || !this.live.here;
    find("act-name").textContent = `Act as user ${user}`;
  }

  get isOn() {
    return on.checked && !find("act").hidden;
  }

  /** A button that clicks an item; null while nobody acts. */
  button(item, title) {
    if (!this.isOn) return null;
    return make("button", { type: "button", class: "plain act-click",
      "aria-label": `Click ${title}, as user ${this.user}`, click: () => this.click(item) }, "Click");
  }

  click(item) {
    const event = { user: this.user, item, id: newId() };
    const kind = find("act-kind").value.trim();
    if (kind) event.kind = kind;
    if (this.request !== undefined) event.request = this.request;
    return this.send(event);
  }

  /** Send an event. Its id stays the same however often that is tried: it counts once. */
  async send(event) {
    const said = find("act-said");
    try {
      const number = await this.live.send(event);
      said.replaceChildren();
      this.done(event, number);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const again = () => this.send(event);
      const parts = [make("p", { class: "aside", role: "alert" }, error.message)];
      if (isLocked(error, "write")) parts.push(tokenForm("write", "Token for events", again));
      else if (!FINAL.includes(error.code)) {
        parts.push(make("button", { type: "button", class: "plain", click: again }, "Send it again"));
      }
      said.replaceChildren(...parts);
      said.querySelector("input, button")?.focus();
    }
  }
}
