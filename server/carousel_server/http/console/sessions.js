// The caller's sessions: a list that is read again every few seconds, and a button that closes one.

import { call } from "./api.js";
import { at, make, say, short, showProblem } from "./dom.js";
import { Table } from "./table.js";

const EVERY_MS = 5000;
const PAGE = 50;
const SURE_MS = 4000;

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

/** The table of sessions. */
export class Sessions {
  constructor() {
    this.most = PAGE;
    const columns = [
      { name: "Session", lead: true, fixed: true, cell: (one) => make("code", {}, one.id) },
      { name: "Model", cell: (one) => one.model },
      { name: "Phase", cell: (one) => one.phase },
      { name: "Steps run", number: true, cell: (one) => short(one.applied) },
      { name: "Durability", cell: (one) => one.durability },
      { name: "Opened", cell: (one) => clock.format(new Date(one.created_at)) },
      { name: "", fixed: true, number: true, cell: (one) => this.#button(one.id) },
    ];
    this.table = new Table(at("sessions-table"), columns, "No sessions. Open one in the playground, or with a client.");
    at("sessions-reload").addEventListener("click", () => this.load());
    at("sessions-more").addEventListener("click", () => {
      this.most += PAGE;
      this.load();
    });
    setInterval(() => document.hidden || !this.loaded || this.load(), EVERY_MS);
  }

  /** Reads the sessions. */
  async load() {
    try {
      const page = await call("sessions", { query: { page_size: Math.min(this.most, 1000) } });
      const more = page.next_page_token !== "";
      this.table.show(page.sessions.map((one) => [one.id, one]));
      at("sessions-more").hidden = !more || this.most >= 1000;
      const count = page.sessions.length;
      say(at("sessions-hint"), `${more ? `the first ${count}` : count} ${count === 1 && !more ? "session" : "sessions"} of yours`);
      this.loaded = true;
      showProblem(at("sessions-problem"), null);
    } catch (error) {
      showProblem(at("sessions-problem"), error.status === 401 ? null : error);
    }
  }

  #button(id) {
    const button = make("button", { type: "button", className: "quiet", "aria-label": `Close session ${id}` }, "Close");
    let timer = 0;
    const calm = () => {
      clearTimeout(timer);
      timer = 0;
      button.classList.remove("sure");
      say(button, "Close");
      button.setAttribute("aria-label", `Close session ${id}`);
    };
    button.addEventListener("click", async () => {
      if (!timer) {
        button.classList.add("sure");
        say(button, "Sure?");
        button.setAttribute("aria-label", `Press again to close session ${id} for good`);
        timer = setTimeout(calm, SURE_MS);
        return;
      }
      calm();
      try {
        await call("close", { path: { session: id } });
        await this.load();
      } catch (error) {
        showProblem(at("sessions-problem"), error);
      }
    });
    return button;
  }
}
