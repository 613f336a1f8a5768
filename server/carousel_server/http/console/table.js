// A table whose rows are known by a key, so that a reload keeps the focus and moves nothing.

import { make, say } from "./dom.js";

/** `columns`: a name, whether it has numbers, and a function from an entry to a text or an element. */
export class Table {
  constructor(table, columns, empty) {
    Object.assign(this, { columns, empty, rows: new Map() });
    const heads = columns.map(({ name, number }) =>
      make("th", { className: number ? "number" : "", scope: "col", role: "columnheader" }, name));
    const row = make("tr", { role: "row" }, ...heads);
    this.body = make("tbody", { role: "rowgroup" });
    table.setAttribute("role", "table"); // the layout for phones takes this away otherwise
    table.append(make("thead", { role: "rowgroup" }, row), this.body);
  }

  /** Shows entries, an array of [key, entry] in order. */
  show(entries) {
    const wanted = new Set(entries.map(([key]) => key));
    for (const key of this.rows.keys()) if (!wanted.has(key)) this.#drop(key);
    this.none?.remove();
    entries.forEach(([key, entry], place) => {
      const row = this.rows.get(key) ?? this.#add(key);
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place] ?? null);
      this.columns.forEach(({ cell, fixed }, index) => {
        const shown = row.children[index];
        if (fixed && shown.hasChildNodes()) return;
        const content = cell(entry);
        if (typeof content === "string") say(shown, content);
        else shown.replaceChildren(...[content].flat());
      });
    });
    if (!entries.length) {
      const cell = make("td", { className: "empty", colSpan: this.columns.length, role: "cell" }, this.empty);
      this.none = make("tr", { role: "row" }, cell);
      this.body.append(this.none);
    }
  }

  #add(key) {
    const cells = this.columns.map(({ name, number, lead }) =>
      make("td", { className: number ? "number" : lead ? "lead" : "", role: "cell", "data-label": name }));
    const row = make("tr", { role: "row" }, ...cells);
    this.rows.set(key, row);
    return row;
  }

  #drop(key) {
    this.rows.get(key).remove();
    this.rows.delete(key);
  }
}
