// The frame of every screen: navigation, who is signed in, how changes arrive.
import type { ComponentChildren } from "preact";
import { computed, signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { credential, type Scope } from "../api.ts";
import { clerk, organizations } from "../clerk.ts";
import { keep, recall } from "../keep.ts";
import { connection, offline } from "../live.ts";
import { go, href, path } from "../router.ts";
import { can, isOperator, session, signOut, switchOrganization } from "../session.ts";
import { announce, Announcements, notify } from "./announce.tsx";
import { Dialog } from "./dialog.tsx";
import { openAtArrow, walk } from "./menu.tsx";
import { Newer } from "./newer.tsx";
import { SecretDialog } from "./secret.tsx";

export interface Place {
  name: string;
  title: string;
  /** null: for operators. */
  scope: Scope | null;
  /** The key after `g`. */
  key: string;
}

export const PLACES: Place[] = [
  { name: "batches", title: "Batches", scope: "jobs:read", key: "b" },
  { name: "reports", title: "Reports", scope: "reports:read", key: "r" },
  { name: "applications", title: "Applications", scope: "applications:read", key: "a" },
  { name: "webhooks", title: "Webhooks", scope: "webhooks:read", key: "w" },
  { name: "keys", title: "API keys", scope: "keys:admin", key: "k" },
  { name: "usage", title: "Usage", scope: "jobs:read", key: "u" },
  { name: "audit", title: "Audit", scope: "keys:admin", key: "t" },
  { name: "organization", title: "Organization", scope: "jobs:read", key: "o" },
  // Operators belong to no organization.
  { name: "operations", title: "Operations", scope: null, key: "o" },
];

export const places = computed(() => PLACES.filter(({ scope }) => (scope ? can(scope) : isOperator.value)));

const CONNECTIONS = {
  off: "",
  offline: "Offline",
  connecting: "Connecting",
  live: "Live",
  polling: "Polling",
  away: "No answer",
};

/** The header of a page without navigation. */
export function Brand() {
  return (
    <header class="frame">
      <span class="brand">Batch Lookups</span>
    </header>
  );
}

export function Frame({ children }: { children: ComponentChildren }) {
  const state = offline.value ? "offline" : connection.value;
  useEffect(() => {
    if (state === "offline" || state === "away") announce("No connection; what you see may be outdated");
  }, [state]);
  return (
    <>
      <a class="skip" href="#main" onClick={focusMain}>Skip to content</a>
      <header class="frame">
        <a class="brand" href={href([])}>Batch Lookups</a>
        <Navigation />
        <div class="who">
          {CONNECTIONS[state] && <span class={`connection ${state}`}>{CONNECTIONS[state]}</span>}
          <Organization />
          <button type="button" class="quiet icon" aria-label="Keys" onClick={() => (helpShown.value = true)}>?</button>
          <button type="button" class="quiet" onClick={() => signOut()}>Sign out</button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <Newer />
        {children}
      </main>
      <Announcements />
      <SecretDialog />
      {helpShown.value && <Help />}
    </>
  );
}

/** The places in a row or, without enough room, in a list that a button opens: style.css decides. */
function Navigation() {
  const list = useRef<HTMLDivElement>(null);
  const here = path.value[0] ?? places.value[0]?.name;
  return (
    <nav
      aria-label="Main"
      onFocusOut={({ currentTarget, relatedTarget }) => {
        if (relatedTarget && !currentTarget.contains(relatedTarget as Node)) list.current!.hidePopover();
      }}
    >
      <button type="button" popovertarget="places" onKeyDown={(event) => walk(event, list.current!)}>Menu</button>
      <div
        ref={list}
        id="places"
        popover="auto"
        class="places"
        onClick={() => list.current!.hidePopover()}
        onKeyDown={(event) => list.current!.matches(":popover-open") && walk(event, list.current!)}
      >
        {places.value.map(({ name, title }) => (
          <a key={name} href={href([name])} aria-current={name === here ? "page" : undefined}>{title}</a>
        ))}
      </div>
    </nav>
  );
}

/** The organization of the session; users of Clerk with several can switch here. */
function Organization() {
  const others = useSignal<{ id: string; name: string }[]>([]);
  const current = useSignal("");
  useEffect(() => {
    if (credential.peek()?.kind !== "session") return;
    clerk().then((client) => {
      others.value = organizations(client!);
      current.value = client!.organization?.id ?? "";
    });
  }, [session.value]);
  if (others.value.length < 2) return <span class="organization">{session.value?.organization?.name ?? "Operator"}</span>;
  return (
    <select
      aria-label="Organization"
      class="organization"
      value={current}
      onKeyDown={openAtArrow}
      onChange={({ currentTarget: field }) =>
        switchOrganization(field.value).catch(() => {
          field.value = current.peek();
          notify("The organization was not switched, because Clerk cannot be reached.");
        })}
    >
      {others.value.map(({ id, name }) => <option key={id} value={id}>{name}</option>)}
    </select>
  );
}

function focusMain(event: Event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

const helpShown = signal(false);
const OFF = "keys off";
/** Whether single-key shortcuts are enabled; stored for all tabs. */
const keysOn = signal(recall("localStorage", OFF) === null);
const GRID_KEYS: Key[] = [
  ["↑ ↓ ← →", "Move; with Shift, choose several rows; with Ctrl, to the end"],
  ["Home End", "First and last column; with Ctrl, first and last row"],
  ["Enter", "Edit the cell; again, to go to the next row"],
  ["Delete", "Clear the cells"],
  ["Ctrl D", "Fill down"],
  ["Ctrl C", "Copy the cells; Ctrl X cuts them"],
  ["Ctrl V", "Paste cells, also from a spreadsheet"],
  ["Space", "Leave the rows out, or include them again"],
  ["Ctrl Z", "Undo"],
];

/** Keys, separated by spaces, and what they do. */
type Key = [keys: string, title: string];

function KeyList({ keys }: { keys: Key[] }) {
  return (
    <dl class="keys">
      {keys.map(([keys, title]) => (
        <>
          <dt>{keys.split(" ").map((key) => <kbd key={key}>{key}</kbd>)}</dt>
          <dd>{title}</dd>
        </>
      ))}
    </dl>
  );
}

function Help() {
  const uploads = can("jobs:write");
  return (
    <Dialog title="Keys" onClose={() => (helpShown.value = false)}>
      <KeyList
        keys={[
          ["?", "This list"],
          ["/", "Search"],
          ...(uploads ? [["n", "New upload"] as Key] : []),
          ...places.value.map(({ key, title }): Key => [`g ${key}`, title]),
          ["Esc", "Close a dialog"],
        ]}
      />
      {uploads && (
        <>
          <h3>In the rows of a draft</h3>
          <KeyList keys={GRID_KEYS} />
        </>
      )}
      <label class="check">
        <input
          type="checkbox"
          checked={keysOn}
          onChange={(event) => {
            keysOn.value = event.currentTarget.checked;
            keep("localStorage", OFF, keysOn.value ? null : "1");
          }}
        />
        Use single-key shortcuts
      </label>
    </Dialog>
  );
}

/** Shortcuts that work everywhere except in fields. */
export function useKeys() {
  useLayoutEffect(() => {
    let afterG = false;
    function onKey(event: KeyboardEvent) {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, textarea, select, dialog[open], [role=grid]")) return;
      if (!keysOn.peek() || !session.peek()) return;
      const place = afterG && places.value.find(({ key }) => key === event.key);
      afterG = event.key === "g";
      if (place) go([place.name]);
      else if (event.key === "?") helpShown.value = true;
      else if (event.key === "n" && can("jobs:write")) go(["upload"]);
      else if (event.key === "/") document.querySelector<HTMLElement>("input[type=search]")?.focus();
      else return;
      event.preventDefault();
    }
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}
