// SPDX-License-Identifier: Apache-2.0
// What a browser remembers: `local` until it is cleared, `session` until the tab is closed. Without storage (a
// browser may forbid it) or beyond its size, what is remembered lasts as long as the page.

class Store {
  #prefix = "sgl.";
  #page = new Map();

  constructor(name) {
    this.name = name;
  }

  read(key, otherwise) {
    if (this.#page.has(key)) return this.#page.get(key);
    try {
      const text = window[this.name].getItem(this.#prefix + key);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  }

  write(key, value) {
    this.#page.set(key, value);
    try {
      window[this.name].setItem(this.#prefix + key, JSON.stringify(value));
    } catch {
      // As above: the page remembers.
    }
  }
}

export const local = new Store("localStorage");
export const session = new Store("sessionStorage");
