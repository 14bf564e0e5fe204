// Whether the service has a newer page than this one, as after a release: an old page may request what the API no longer has.
import { effect, signal } from "@preact/signals";
import { API } from "../api.ts";
import { connection } from "../live.ts";
import { announce } from "./announce.tsx";

const isOld = signal(false);
/** The page names its script by the script's hash. */
const SCRIPT = import.meta.url.split("/").at(-1)!;

async function look() {
  if (isOld.peek()) return;
  const response = await fetch(new URL("portal", API)).catch(() => null);
  if (!response?.ok || (await response.text().catch(() => SCRIPT)).includes(SCRIPT)) return;
  isOld.value = true;
  announce("A newer version of the portal is available");
}

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && look());
// A release ends connections.
let wasCut = false;
effect(() => {
  if (connection.value === "live" && wasCut) look();
  wasCut = connection.value === "polling" || connection.value === "away" || (wasCut && connection.value !== "live");
});

export function Newer() {
  if (!isOld.value) return null;
  return (
    <p class="banner">
      A newer version of the portal is available.{" "}
      <button type="button" class="link" onClick={() => location.reload()}>Reload the page</button>
    </p>
  );
}
