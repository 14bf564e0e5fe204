import { exactTime, shortTime } from "../format.ts";
import { Failure } from "../api.ts";

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

export function Loading() {
  return <p class="loading" aria-busy="true">Loading…</p>;
}
