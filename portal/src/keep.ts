// What the browser keeps for the portal: nothing where it is told so, or is full. Then the page alone knows it, until it is left.
type Place = "sessionStorage" | "localStorage";

export function recall(place: Place, name: string): string | null {
  try {
    return globalThis[place].getItem(name);
  } catch {
    return null;
  }
}

/** null: it is forgotten. */
export function keep(place: Place, name: string, value: string | null) {
  try {
    if (value === null) globalThis[place].removeItem(name);
    else globalThis[place].setItem(name, value);
  } catch {
    // It is not kept.
  }
}
