// The screen as a command: what is clicked here can be scripted.
import { API } from "../api.ts";
import { notify } from "./announce.tsx";
import { Menu } from "./menu.tsx";

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
export function CopyAs({ path, sql }: { path: string; sql?: string }) {
  const choices = [{ title: "curl", run: () => copy(curl(path), "curl command") }];
  if (sql) choices.push({ title: "SQL", run: () => copy(sql, "SQL") });
  return <Menu title="Copy as…" choices={choices} quiet />;
}
