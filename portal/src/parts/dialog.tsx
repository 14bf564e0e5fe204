import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { Note } from "./announce.tsx";
import { focusAt, wayTo } from "./focus.ts";

interface Properties {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  /** Buttons; a form's submit button belongs into the form. */
  actions?: ComponentChildren;
  wide?: boolean;
}

/**
 * A modal dialog, there for as long as it is rendered. Escape and its own button close it, and a click beside it where nothing can be lost
 * by that: no field, and no secret that is shown this one time.
 */
export function Dialog({ title, onClose, children, actions, wide }: Properties) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useId();
  const pressedBeside = useRef(false);
  useLayoutEffect(() => {
    const before = wayTo(document.activeElement);
    const dialog = element.current!;
    dialog.showModal();
    return () => {
      // While it is open, nothing else takes the focus.
      dialog.close();
      focusAt(before);
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
