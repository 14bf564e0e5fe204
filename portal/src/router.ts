// The state of the screen is in the URL: `#/batches/ID?status=failed` is a path with the filters of the screen.
import { computed, signal } from "@preact/signals";
import { whetherSignedIn } from "./session.ts";

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

/** Returns it unchanged if a mail or chat program has broken the URL. */
function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

// Some browsers lack the navigation history.
const { navigation } = globalThis as Partial<typeof globalThis>;

/** The current entry of the browser's history, to which "back" and "forward" return; empty if the browser does not tell. */
export const entry = () => navigation?.currentEntry?.key ?? "";

type Parameters = Record<string, string | null | undefined>;

/** The URL of a screen; parameters without a value are omitted. */
export function href(segments: string[], parameters: Parameters = {}): string {
  const kept = Object.entries(parameters).filter((entry): entry is [string, string] => Boolean(entry[1]));
  const search = new URLSearchParams(kept).toString();
  return `#/${segments.map(encodeURIComponent).join("/")}${search && `?${search}`}`;
}

export function go(segments: string[], parameters: Parameters = {}) {
  location.hash = href(segments, parameters);
  hash.value = location.hash;
}

/**
 * Returns a function that tells whether the current screen is still open, which it is not if the next one is not shown yet, or if another
 * organization has signed in.
 */
export function whetherHere(): () => boolean {
  const here = split(location.hash)[0];
  const isSignedIn = whetherSignedIn();
  return () => split(location.hash)[0] === here && isSignedIn();
}

/** `go`, unless the current screen has been left meanwhile: for slow operations. */
export function wayFromHere(): typeof go {
  const isHere = whetherHere();
  return (segments, parameters) => {
    if (isHere()) go(segments, parameters);
  };
}

/** Like `go`, for a screen that no longer exists: "back" does not lead to it. */
export function replace(segments: string[], parameters: Parameters = {}) {
  const address = href(segments, parameters);
  history.replaceState(null, "", address);
  hash.value = address;
}

/** Changes parameters of the screen in place: "back" leads to the previous screen, not through every typed letter. */
export function setQuery(changes: Parameters) {
  // A link may just have been followed.
  hash.value = location.hash;
  replace(path.peek(), { ...Object.fromEntries(query.peek()), ...changes });
}

/** Closes what a parameter of the screen has opened: by going back if a link has just opened it, so that "back" does not reopen it. */
export function close(name: string) {
  const parameters = { ...Object.fromEntries(query.peek()), [name]: null };
  const before = navigation?.entries()[navigation.currentEntry!.index - 1];
  if (before?.sameDocument && new URL(before.url!).hash === href(path.peek(), parameters)) navigation!.traverseTo(before.key);
  else replace(path.peek(), parameters);
}
