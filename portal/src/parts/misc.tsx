import { exactTime, shortTime } from "../format.ts";
import { Failure } from "../api.ts";
import type { Loaded } from "../load.ts";

export function Time({ at }: { at: string }) {
  return <time dateTime={at} title={exactTime(at)}>{shortTime(at)}</time>;
}

/** What went wrong and what to do about it. */
export function Problem({ error, onRetry }: { error: Error | undefined; onRetry?: () => void }) {
  if (!error) return null;
  return (
    <div class="problem" role="alert">
      <p>
        <strong>{error.message}</strong> {error instanceof Failure && error.hint}
      </p>
      {onRetry && <button type="button" onClick={onRetry}>Try again</button>}
    </div>
  );
}

/** A screen whose content has not come: it is on its way, or there is none. */
export function NotYet({ title, loaded }: { title: string; loaded: Pick<Loaded<unknown>, "error" | "reload"> }) {
  return (
    <>
      <div class="heading">
        <h1>{title}</h1>
      </div>
      {loaded.error.value ? <Problem error={loaded.error.value} onRetry={loaded.reload} /> : <Loading />}
    </>
  );
}

export function Loading() {
  return <p class="loading" aria-busy="true">Loading…</p>;
}
