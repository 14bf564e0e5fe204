// The state of the screen is in the URL: `#/batches/ID?status=failed` is a path and the filters of the screen there.
import { computed, signal } from "@preact/signals";

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

/** Segments of the path, such as ["batches", "ID"]. */
export const path = computed(() => split(hash.value)[0].split("/").filter(Boolean).map(decoded), { name: "path" });
/** Parameters of the screen. */
export const query = computed(() => new URLSearchParams(split(hash.value)[1]), { name: "query" });

function split(text: string): [string, string] {
  const [before = "", after = ""] = text.replace(/^#/, "").split("?", 2);
  return [before, after];
}

/** As it is, where a mail or a chat has broken the address. */
function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

type Parameters = Record<string, string | null | undefined>;

/** The address of a screen; parameters without a value are left out. */
export function href(segments: string[], parameters: Parameters = {}): string {
  const kept = Object.entries(parameters).filter((entry): entry is [string, string] => Boolean(entry[1]));
  const search = new URLSearchParams(kept).toString();
  return `#/${segments.map(encodeURIComponent).join("/")}${search && `?${search}`}`;
}

export function go(segments: string[], parameters: Parameters = {}) {
  location.hash = href(segments, parameters);
  hash.value = location.hash;
}

/** Tells later whether the screen of now has not been left, also where the next one is not shown yet. */
export function whetherHere(): () => boolean {
  const here = split(location.hash)[0];
  return () => split(location.hash)[0] === here;
}

/** `go`, as long as the screen that is shown now has not been left: for what takes a while. */
export function wayFromHere(): typeof go {
  const isHere = whetherHere();
  return (segments, parameters) => {
    if (isHere()) go(segments, parameters);
  };
}

/** As `go`, where the screen before is no more. */
export function replace(segments: string[], parameters: Parameters = {}) {
  const address = href(segments, parameters);
  history.replaceState(null, "", address);
  hash.value = address;
}

/** Changes parameters of the screen in place: "back" leads to the screen before, not to every letter that was typed. */
export function setQuery(changes: Parameters) {
  replace(path.peek(), { ...Object.fromEntries(query.peek()), ...changes });
}

/** Closes what a parameter of the screen has opened: where a link just did, by the way back, or "back" would lead to the same again. */
export function close(name: string) {
  const parameters = { ...Object.fromEntries(query.peek()), [name]: null };
  // Some browsers have no such list.
  const { navigation } = globalThis as Partial<typeof globalThis>;
  const before = navigation?.entries()[navigation.currentEntry!.index - 1];
  if (before?.sameDocument && new URL(before.url!).hash === href(path.peek(), parameters)) navigation!.traverseTo(before.key);
  else replace(path.peek(), parameters);
}
