import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { focusAt, wayTo } from "./focus.ts";

interface Properties {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  /** Buttons; a form's submit button belongs into the form. */
  actions?: ComponentChildren;
  wide?: boolean;
}

/** A modal dialog, there for as long as it is rendered. Escape, a click beside it and its own button close it. */
export function Dialog({ title, onClose, children, actions, wide }: Properties) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useLayoutEffect(() => {
    const before = wayTo(document.activeElement);
    element.current!.showModal();
    return () => focusAt(before);
  }, []);
  return (
    <dialog
      ref={element}
      class={wide ? "wide" : undefined}
      aria-labelledby={heading}
      onClose={onClose}
      onClick={(event) => event.target === element.current && onClose()}
    >
      <div class="dialog-body">
        <header>
          <h2 id={heading}>{title}</h2>
          <button type="button" class="quiet icon" aria-label="Close" onClick={onClose}>×</button>
        </header>
        {children}
        {actions && <footer class="actions">{actions}</footer>}
      </div>
    </dialog>
  );
}
