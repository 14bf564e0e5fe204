// Announcements for screen readers, and short notices that everybody sees.
import { computed, effect, signal } from "@preact/signals";
import { pause } from "../api.ts";
import { session, whetherSignedIn } from "../session.ts";

const QUIET_SECONDS = 10;
const LETTERS_A_SECOND = 12;

const spoken = signal("");
const note = signal("");
let next = "";
let speaking = false;

// What was said to one organization is not for whoever signs in next.
const listener = computed(() => session.value && (session.value.organization?.id ?? "operator"));
effect(() => {
  listener.value;
  note.value = spoken.value = next = "";
});

/** Announces a sentence, at most one in ten seconds: of several, the last. */
export async function announce(sentence: string) {
  next = sentence;
  if (speaking) return;
  speaking = true;
  while (next && next !== spoken.value) {
    spoken.value = next;
    await pause(QUIET_SECONDS);
  }
  speaking = false;
}

/** Shows and immediately announces that something has been done, or is being done until `during` ends. */
export async function notify(sentence: string, during?: Promise<unknown>) {
  note.value = sentence;
  await (during ?? pause(Math.max(4, sentence.length / LETTERS_A_SECOND))).catch(() => {});
  if (note.value === sentence) note.value = "";
}

/** Returns `notify` for the organization that is signed in now, and for nobody else: to be called before a request. */
export function teller(): typeof notify {
  const isSignedIn = whetherSignedIn();
  return async (...told) => {
    if (isSignedIn()) await notify(...told);
  };
}

export function Announcements() {
  return (
    <>
      <p class="unseen" role="status" data-live>{spoken}</p>
      <Note />
    </>
  );
}

/** Rendered in the page and in each dialog: while one is open, what is outside it is neither visible nor announced. */
export function Note() {
  return <p class={note.value ? "note-toast shown" : "note-toast"} role="status">{note}</p>;
}
