import type { ComponentChildren } from "preact";
import { useId, useRef } from "preact/hooks";

export interface Choice {
  title: string;
  run: () => void;
}

/** Opens a list with an arrow key, and moves through its items. */
export function walk(event: KeyboardEvent, list: HTMLElement) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  list.showPopover();
  const choices = [...list.children] as HTMLElement[];
  const at = choices.indexOf(document.activeElement as HTMLElement);
  choices.at(at < 0 && step < 0 ? -1 : (at + step) % choices.length)!.focus();
}

/** Makes the arrow keys open the list of a field whose selection takes effect immediately, as on a Mac, instead of selecting. */
export function openAtArrow(event: KeyboardEvent) {
  if (!/^Arrow(Down|Up)$/.test(event.key) || event.altKey) return;
  event.preventDefault();
  (event.currentTarget as HTMLSelectElement).showPicker?.();
}

/** A button that opens a list of commands; the arrow keys move through it. */
export function Menu({ title, choices, quiet }: { title: ComponentChildren; choices: Choice[]; quiet?: boolean }) {
  const id = useId();
  const anchor = `--${id.replace(/\W/g, "")}`;
  const list = useRef<HTMLDivElement>(null);
  const onKey = (event: KeyboardEvent) => walk(event, list.current!);
  return (
    <>
      <button type="button" class={quiet ? "quiet" : undefined} popovertarget={id} style={{ anchorName: anchor }} onKeyDown={onKey}>
        {title}
      </button>
      <div ref={list} id={id} popover="auto" class="menu" style={{ positionAnchor: anchor }} onKeyDown={onKey}>
        {choices.map(({ title, run }) => (
          <button key={title} type="button" popovertarget={id} popovertargetaction="hide" onClick={run}>{title}</button>
        ))}
      </div>
    </>
  );
}
