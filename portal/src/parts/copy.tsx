// The screen as a command, to be scripted.
import { API } from "../api.ts";
import { notify } from "./announce.tsx";
import { Menu } from "./menu.tsx";

/** Returns whether the browser allowed it. */
export async function copy(text: string, what: string): Promise<boolean> {
  // Over HTTP, or if it is refused, there is no such clipboard.
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copyByCommand(text);
  notify(copied ? `${what} copied` : "The browser does not let this page copy. Select the text and copy it yourself.");
  return copied;
}

/** The old way of copying, without the clipboard API. */
function copyByCommand(text: string): boolean {
  let copied = false;
  function give(event: ClipboardEvent) {
    event.clipboardData!.setData("text/plain", text);
    event.preventDefault();
    copied = true;
  }
  document.addEventListener("copy", give);
  document.execCommand("copy");
  document.removeEventListener("copy", give);
  return copied;
}

/** A curl command for a path of the API, to which a CSV file may be sent; the key comes from the shell variable `key`. */
function curl(path: string, file?: string): string {
  const command = `curl ${quoted(new URL(path, API).href)} -H "x-api-key: $key"`;
  return file ? `${command} -H "content-type: text/csv" --data-binary ${quoted(`@${file}`)}` : command;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A text as an SQL literal. */
export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** Joins the conditions of a query; empty if there are none. */
export function where(...conditions: (string | false | null | undefined)[]): string {
  const given = conditions.filter(Boolean);
  return given.length ? ` where ${given.join(" and ")}` : "";
}

/** Offers the screen's content as a curl command, and as SQL if possible. */
export function CopyAs({ path, sql, file }: { path: string; sql?: string; file?: string }) {
  const choices = [{ title: "curl", run: () => copy(curl(path, file), "curl command") }];
  if (sql) choices.push({ title: "SQL", run: () => copy(sql, "SQL") });
  return <Menu title="Copy as…" choices={choices} quiet />;
}
