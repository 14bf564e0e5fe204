// The portal's data in the browser's storage. If storage is disabled or full, only the page keeps it, until it is left.
type Place = "sessionStorage" | "localStorage";

export function recall(place: Place, name: string): string | null {
  try {
    return globalThis[place].getItem(name);
  } catch {
    return null;
  }
}

/** null: removes it. */
export function keep(place: Place, name: string, value: string | null) {
  try {
    if (value === null) globalThis[place].removeItem(name);
    else globalThis[place].setItem(name, value);
  } catch {
    // It is not stored.
  }
}
