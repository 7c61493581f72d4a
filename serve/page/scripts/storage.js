// What the browser keeps for this page. Where it refuses, memory does until the page is closed.
const inMemory = new Map();

/** Whether what is kept outlives the page. */
export let outlivesPage = true;

export function recall(key) {
  try {
    return localStorage.getItem(key) ?? inMemory.get(key) ?? null;
  } catch { // a SecurityError: storage is blocked
    outlivesPage = false;
    return inMemory.get(key) ?? null;
  }
}

export function keep(key, value) {
  inMemory.set(key, value);
  try {
    localStorage.setItem(key, value);
  } catch { // blocked, or full
    outlivesPage = false;
  }
}

/** 128 random bits in hexadecimal; `crypto.randomUUID` is only there over https. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whose jobs these are: an id made once in this browser. */
export const user = (() => {
  const known = recall("sluice.user");
  if (/^page-[0-9a-f]{32}$/.test(known ?? "")) return known;
  const made = `page-${randomId()}`;
  keep("sluice.user", made);
  return made;
})();
