import type { ComponentChildren } from "preact";
import { useSignal } from "@preact/signals";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { number, readNumber } from "../format.ts";
import { debounced } from "../load.ts";
import { whetherHere } from "../router.ts";
import { copy } from "./copy.tsx";
import { Problem } from "./misc.tsx";
import { useKept } from "./typed.ts";

interface Properties {
  /** Label of the submit button. */
  submit: string;
  onSubmit: (data: FormData, form: HTMLFormElement) => Promise<unknown>;
  onCancel?: () => void;
  danger?: boolean;
  disabled?: boolean;
  /** Buttons for other commands. */
  others?: ComponentChildren;
  /** Messages by the API's name of a field, in place of the API's own. */
  words?: Record<string, string>;
  children?: ComponentChildren;
}

/**
 * A form that shows its failure above its buttons, and cannot be submitted twice. The API's messages begin with the name of what is wrong:
 * the field of that name gets the focus, and is described by the failure.
 */
export function Form({ submit, onSubmit, onCancel, danger, disabled, others, words, children }: Properties) {
  const error = useSignal<Error | undefined>(undefined);
  const busy = useSignal(false);
  const id = useId();
  const kept = useKept(submit);
  function blame(form: HTMLFormElement, name: string) {
    const field = form.querySelector<HTMLElement>(`[name="${name}"]`);
    field?.setAttribute("aria-invalid", "true");
    field?.setAttribute("aria-describedby", id);
    field?.focus();
  }
  async function send(event: SubmitEvent) {
    event.preventDefault();
    if (busy.peek()) return;
    busy.value = true;
    error.value = undefined;
    const form = event.currentTarget as HTMLFormElement;
    for (const field of form.querySelectorAll(`[aria-describedby="${id}"]`)) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
    try {
      await onSubmit(new FormData(form, event.submitter), form);
    } catch (failure) {
      const [name = ""] = (failure as Error).message.match(/^\w+/) ?? [];
      error.value = words?.[name] ? new Error(words[name]) : failure as Error;
      blame(form, name);
    }
    busy.value = false;
  }
  return (
    <form ref={kept} onSubmit={send}>
      {children}
      <div id={id}>
        <Problem error={error.value} />
      </div>
      <div class="actions">
        {others}
        {onCancel && <button type="button" onClick={onCancel}>Never mind</button>}
        <button type="submit" class={danger ? "danger" : "primary"} disabled={disabled} aria-disabled={busy.value}>{submit}</button>
      </div>
    </form>
  );
}

interface CommandProperties {
  run: () => Promise<unknown>;
  class?: string;
  children: ComponentChildren;
}

/** A button outside a form; cannot be activated again while its action is in progress. */
export function Command({ run, ...rest }: CommandProperties) {
  const busy = useSignal(false);
  async function click() {
    if (busy.peek()) return;
    busy.value = true;
    await run().finally(() => (busy.value = false));
  }
  return <button type="button" {...rest} aria-disabled={busy.value} onClick={click} />;
}

interface NumberProperties {
  name: string;
  min: number;
  max: number;
  value?: number;
  required?: boolean;
  placeholder?: string;
}

/** A field for a whole number in the browser's format, which `readNumber` reads. */
export function NumberField({ min, max, value, ...rest }: NumberProperties) {
  function complaint(text: string): string {
    const given = readNumber(text);
    if (!text.trim()) return "";
    if (given === null || !Number.isInteger(given)) return "This is not a whole number.";
    return given < min || given > max ? `From ${number(min)} to ${number(max)}.` : "";
  }
  return (
    <input
      {...rest}
      inputMode="numeric"
      autocomplete="off"
      defaultValue={value === undefined ? "" : number(value)}
      onInput={(event) => event.currentTarget.setCustomValidity(complaint(event.currentTarget.value))}
    />
  );
}

/** For a field with an initial text: updates it when it changes elsewhere, such as by a link, but not during typing. */
export function useShown(text: string) {
  const input = useRef<HTMLInputElement>(null);
  const typing = useRef(false);
  useEffect(() => {
    const field = input.current!;
    field.addEventListener("input", () => (typing.current = true));
    // The text is complete.
    field.addEventListener("change", () => (typing.current = false));
  }, []);
  useEffect(() => {
    if (document.activeElement !== input.current || !typing.current) input.current!.value = text;
  }, [text]);
  return input;
}

/** A field whose text is searched for once typing has paused. */
export function Search({ label, hint = label, value, onSearch }: SearchProperties) {
  const latest = useRef(onSearch);
  latest.current = onSearch;
  const input = useShown(value);
  // Shared by all renderings, or a letter would not postpone the search for the previous one. The last text must not reach the next screen.
  const [ask] = useState(() => debounced(([text, isHere]: [string, () => boolean]) => isHere() && latest.current(text)));
  useEffect(() => ask.cancel, []);
  return (
    <input
      ref={input}
      type="search"
      aria-label={label}
      placeholder={hint}
      defaultValue={value}
      onInput={(event) => ask([event.currentTarget.value, whetherHere()])}
    />
  );
}

interface SearchProperties {
  label: string;
  /** The placeholder; the label if there is none. */
  hint?: string;
  value: string;
  onSearch: (text: string) => void;
}

/** A secret that the API shows only once. */
export function Secret({ value, children }: { value: string; children: ComponentChildren }) {
  return (
    <div class="secret">
      <p>{children}</p>
      <div>
        <code>{value}</code>
        <button type="button" class="primary" onClick={() => copy(value, "Secret")}>Copy</button>
      </div>
    </div>
  );
}
