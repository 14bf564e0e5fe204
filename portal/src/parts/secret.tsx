// A secret that the API shows only once: also shown after leaving the screen that requested it.
import type { ComponentChildren } from "preact";
import { signal } from "@preact/signals";
import { session } from "../session.ts";
import { Dialog } from "./dialog.tsx";
import { Secret } from "./form.tsx";

interface Shown {
  title: string;
  value: string;
  /** Its purpose. */
  children: ComponentChildren;
  /** What can be done with it. */
  more?: ComponentChildren;
}

const shown = signal<(Shown & { organization: string | undefined }) | null>(null);

/** Returns a function that shows a secret of the organization that is signed in now, and to nobody else: to be called before a request. */
export function secretShower(): (secret: Shown) => void {
  const organization = session.peek()?.organization?.id;
  return (secret) => (shown.value = { ...secret, organization });
}

export function SecretDialog() {
  if (!shown.value || shown.value.organization !== session.value?.organization?.id) return null;
  const { title, value, children, more } = shown.value;
  return (
    <Dialog title={title} onClose={() => (shown.value = null)} wide>
      <Secret value={value}>{children}</Secret>
      {more}
    </Dialog>
  );
}
