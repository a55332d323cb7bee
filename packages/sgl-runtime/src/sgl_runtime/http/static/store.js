// SPDX-License-Identifier: Apache-2.0
// What a browser remembers: `local` until it is cleared, `session` until the tab is closed. Without storage (a
// browser may forbid it) or beyond its size, what is remembered lasts as long as the page.

class Store {
  #name;
  #page = new Map(); // key -> JSON, where storing it failed

  constructor(name) {
    this.#name = name;
  }

  read(key, otherwise) {
    const text = this.#page.get(key) ?? this.#stored(key);
    return text === null ? otherwise : JSON.parse(text);
  }

  write(key, value) {
    const text = JSON.stringify(value);
    this.#page.delete(key);
    try {
      window[this.#name].setItem(`sgl.${key}`, text);
    } catch {
      this.#page.set(key, text);
    }
  }

  #stored(key) {
    try {
      return window[this.#name].getItem(`sgl.${key}`);
    } catch {
      return null;
    }
  }
}

export const local = new Store("localStorage");
export const session = new Store("sessionStorage");
