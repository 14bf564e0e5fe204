import { signal } from "@preact/signals";
import { useLayoutEffect } from "preact/hooks";
import { dollars, exactTime, shortTime, signedDollars } from "../format.ts";
import { Failure } from "../api.ts";
import { type Loaded, today } from "../load.ts";

/** The name of what is shown, for the page title. */
export const shownName = signal<string | undefined>(undefined);

/** The heading of a screen for a single object, which names tabs, bookmarks and printed pages. */
export function NamedHeading({ name }: { name: string }) {
  useLayoutEffect(() => {
    shownName.value = name;
    return () => (shownName.value = undefined);
  }, [name]);
  return <h1>{name}</h1>;
}

export function Time({ at }: { at: string }) {
  today.value;
  return <time dateTime={at} title={exactTime(at)}>{shortTime(at)}</time>;
}

/** What went wrong and what to do about it. */
export function Problem({ error, onRetry }: { error: Error | undefined; onRetry?: () => void }) {
  if (!error) return null;
  // Retrying does not help if something does not exist, or the key may not access it.
  const mayCome = !(error instanceof Failure && [403, 404].includes(error.status));
  return (
    <div class="problem" role="alert">
      <p>
        <strong>{error.message}</strong> {error instanceof Failure && error.hint}
      </p>
      {onRetry && mayCome && <button type="button" onClick={onRetry}>Try again</button>}
    </div>
  );
}

/** A screen whose content is loading, or does not exist. */
export function NotYet({ title, loaded }: { title: string; loaded: Pick<Loaded<unknown>, "error" | "retry"> }) {
  return (
    <>
      <div class="heading">
        <h1>{title}</h1>
      </div>
      {loaded.error.value ? <Problem error={loaded.error.value} onRetry={loaded.retry} /> : <Loading />}
    </>
  );
}

export function Loading() {
  return <p class="loading" aria-busy="true">Loading…</p>;
}

/** An amount that depends on facts about the household; nothing if there is none, or if a provider has something else there. */
export function Conditional({ amount, signed }: { amount: number | undefined; signed?: boolean }) {
  return typeof amount === "number" && amount !== 0 && <small>{(signed ? signedDollars : dollars)(amount)} conditional</small>;
}
