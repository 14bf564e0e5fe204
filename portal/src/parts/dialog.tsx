import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { Note } from "./announce.tsx";
import { focusAt, type Way, wayTo } from "./focus.ts";

interface Properties {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  /** Buttons; a form's submit button belongs in the form. */
  actions?: ComponentChildren;
  wide?: boolean;
}

/** Where the focus was before each dialog: one that replaces another returns it there, too. */
const ways = new WeakMap<Element, Way>();

/**
 * A modal dialog, open as long as it is rendered. Escape and its own button close it, and so does a click outside if nothing can be lost:
 * no field, and no secret that is shown only once.
 */
export function Dialog({ title, onClose, children, actions, wide }: Properties) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useId();
  const pressedBeside = useRef(false);
  useLayoutEffect(() => {
    const before = wayTo(document.activeElement);
    const below = document.activeElement?.closest("dialog");
    const dialog = element.current!;
    ways.set(dialog, before);
    dialog.showModal();
    return () => {
      // While it is open, nothing else gets the focus.
      dialog.close();
      focusAt(below && !below.isConnected ? ways.get(below)! : before);
    };
  }, []);
  return (
    <dialog
      ref={element}
      class={wide ? "wide" : undefined}
      aria-labelledby={heading}
      onClose={({ currentTarget }) => currentTarget.isConnected && onClose()}
      onPointerDown={({ target }) => (pressedBeside.current = target === element.current)}
      onClick={({ target }) => {
        const isBeside = pressedBeside.current && target === element.current;
        if (isBeside && !element.current!.querySelector("form, .secret")) onClose();
      }}
    >
      <div class="dialog-body">
        <header>
          <h2 id={heading}>{title}</h2>
          <button type="button" class="quiet icon" aria-label="Close" onClick={onClose}>×</button>
        </header>
        {children}
        {actions && <footer class="actions">{actions}</footer>}
      </div>
      <Note />
    </dialog>
  );
}
