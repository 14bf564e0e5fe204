// The screen as a command: what is clicked here can be scripted.
import { useId } from "preact/hooks";
import { API } from "../api.ts";
import { notify } from "./announce.tsx";

export async function copy(text: string, what: string) {
  await navigator.clipboard.writeText(text);
  notify(`${what} copied`);
}

/** A curl command for a path of the API; the key is left to the shell's variable `key`. */
export function curl(path: string, method = "GET", body?: unknown): string {
  const parts = ["curl"];
  if (method !== "GET") parts.push(`-X ${method}`);
  parts.push(quoted(new URL(path.replace(/^\//, ""), API).href), `-H "x-api-key: $key"`);
  if (body !== undefined) parts.push(`--json ${quoted(JSON.stringify(body))}`);
  return parts.join(" ");
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Offers what the screen shows as a curl command, and as SQL where there is some. */
export function CopyAs({ path, sql }: { path: string; sql?: string }) {
  const id = useId();
  return (
    <>
      <button type="button" class="quiet" popovertarget={id} style={{ anchorName: `--${cssName(id)}` }}>Copy as…</button>
      <div id={id} popover="auto" class="menu" style={{ positionAnchor: `--${cssName(id)}` }}>
        <button type="button" popovertarget={id} popovertargetaction="hide" onClick={() => copy(curl(path), "curl command")}>curl</button>
        {sql && <button type="button" popovertarget={id} popovertargetaction="hide" onClick={() => copy(sql, "SQL")}>SQL</button>}
      </div>
    </>
  );
}

function cssName(id: string): string {
  return id.replace(/\W/g, "");
}
