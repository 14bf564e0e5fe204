// The screen as a command: what is clicked here can be scripted.
import { API } from "../api.ts";
import { notify } from "./announce.tsx";
import { Menu } from "./menu.tsx";

/** Answers whether the browser let it. */
export async function copy(text: string, what: string): Promise<boolean> {
  // Over HTTP, or if it is refused, there is no such clipboard.
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copyByCommand(text);
  notify(copied ? `${what} copied` : "The browser does not let this page copy. Select the text and copy it yourself.");
  return copied;
}

/** As browsers copied before they had a clipboard for pages. */
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

/** A curl command for a path of the API, which a CSV file may be sent to; the key is left to the shell's variable `key`. */
function curl(path: string, file?: string): string {
  const command = `curl ${quoted(new URL(path, API).href)} -H "x-api-key: $key"`;
  return file ? `${command} -H "content-type: text/csv" --data-binary ${quoted(`@${file}`)}` : command;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A text as SQL writes it. */
export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** Conditions of a query, joined; nothing where there is none. */
export function where(...conditions: (string | false | null | undefined)[]): string {
  const given = conditions.filter(Boolean);
  return given.length ? ` where ${given.join(" and ")}` : "";
}

/** Offers what the screen shows as a curl command, and as SQL where there is some. */
export function CopyAs({ path, sql, file }: { path: string; sql?: string; file?: string }) {
  const choices = [{ title: "curl", run: () => copy(curl(path, file), "curl command") }];
  if (sql) choices.push({ title: "SQL", run: () => copy(sql, "SQL") });
  return <Menu title="Copy as…" choices={choices} quiet />;
}
