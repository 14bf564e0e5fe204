// What somebody has typed into a form when their session ends, such as by the end of their key: kept for when they open the form again.
import { useLayoutEffect, useRef } from "preact/hooks";
import { path } from "../router.ts";
import { refusal, session } from "../session.ts";

type Field = HTMLInputElement | HTMLSelectElement;

/** By form, the texts of its changed fields, until the page is left. */
const kept = new Map<string, Map<string, string | boolean>>();

const isBox = (field: Field): field is HTMLInputElement & { type: "checkbox" } => field.type === "checkbox";
const nameOf = (field: Field) => isBox(field) ? `${field.name} ${field.value}` : field.name;
const valueOf = (field: Field) => isBox(field) ? field.checked : field.value;

/** Whether it differs from what is saved; a list does not tell. */
function isChanged(field: Field): boolean {
  if (field instanceof HTMLSelectElement) return true;
  return isBox(field) ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
}

function fieldsOf(form: HTMLFormElement): Field[] {
  return ([...form.elements] as Field[]).filter(({ name, type }) => name && !["hidden", "submit", "button"].includes(type));
}

/** For the form of the organization, screen and object; what is hidden in it tells objects apart. */
function identityOf(form: HTMLFormElement, submit: string): string {
  const hidden = [...form.querySelectorAll<HTMLInputElement>("[type=hidden]")].map(({ name, value }) => [name, value]);
  const names = fieldsOf(form).filter((field) => !isBox(field)).map(nameOf);
  return JSON.stringify([session.peek()?.organization?.id, path.peek(), submit, hidden, names]);
}

/** Keeps what is typed into a form over the end of the session, for the same organization. */
export function useKept(submit: string) {
  const form = useRef<HTMLFormElement>(null);
  useLayoutEffect(() => {
    const here = form.current!;
    const identity = identityOf(here, submit);
    const before = new Map(fieldsOf(here).map((field) => [nameOf(field), valueOf(field)]));
    for (const field of fieldsOf(here)) {
      const value = kept.get(identity)?.get(nameOf(field));
      if (value === undefined) continue;
      if (isBox(field)) field.checked = Boolean(value);
      else field.value = String(value);
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    kept.delete(identity);
    return () => {
      // Signing out, and leaving the screen, are somebody's own wish.
      if (session.peek() || !refusal.peek()) return;
      const changed = fieldsOf(here).filter((field) => isChanged(field) && valueOf(field) !== before.get(nameOf(field)));
      if (changed.length === 0) return;
      kept.set(identity, new Map(changed.map((field) => [nameOf(field), valueOf(field)])));
      if (!refusal.peek().includes(KEPT)) refusal.value += ` ${KEPT}`;
    };
  }, []);
  return form;
}

const KEPT = "What you typed is kept for when you open the form again.";
