// What a screen shows, loaded and reloaded.
import { computed, type ReadonlySignal, signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Failure, serviceTime } from "./api.ts";

export interface Loaded<T> {
  /** undefined: not loaded yet. It stays during a reload. */
  data: ReadonlySignal<T | undefined>;
  error: ReadonlySignal<Error | undefined>;
  busy: ReadonlySignal<boolean>;
  /** Whether `data` belongs to the previous inputs, because the new data has not arrived. */
  outdated: ReadonlySignal<boolean>;
  /** Reloads after the current request: if responses take longer than changes, none would ever arrive otherwise. */
  reload: () => void;
  /** Reloads immediately. */
  retry: () => void;
  /** Shows data that is newer than what was loaded or is being loaded. */
  set: (change: (data: T) => T) => void;
  /** Changes part of what was loaded. */
  patch: (change: (data: T) => T) => void;
  /** Shows what was loaded earlier, until it is loaded again. */
  show: (data: T) => void;
}

export const RETRY_SECONDS = 10;

export const mayPass = (error: unknown): error is Failure => error instanceof Failure && error.isPassing;

/** A failure as it is shown where a retry follows: nobody needs to try again. */
export function retried(failure: Error): Error {
  if (!(failure instanceof Failure) || failure.status !== 0) return failure;
  const hint = failure.code === "no_answer" ? "This page retries automatically." : "Check the connection; this page retries automatically.";
  return new Failure(0, failure.message, failure.code, hint);
}

/**
 * Loads with `load` initially, on `reload`, and when one of `inputs` changes; an outdated response is dropped. A failure that may be
 * temporary is retried until it succeeds.
 */
export function useLoad<T>(load: (abort: AbortSignal) => Promise<T>, inputs: unknown[]): Loaded<T> {
  const data = useSignal<T | undefined>(undefined);
  const error = useSignal<Error | undefined>(undefined);
  const busy = useSignal(true);
  const outdated = useSignal(false);
  const again = useRef(false);
  const current = useRef<AbortController | null>(null);
  const retry = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);

  function start() {
    clearTimeout(retry.current);
    current.current?.abort();
    const controller = current.current = new AbortController();
    again.current = false;
    busy.value = true;
    load(controller.signal).then((answer) => {
      if (controller.signal.aborted) return;
      data.value = answer;
      error.value = undefined;
      outdated.value = false;
      end();
    }, (failure) => {
      if (controller.signal.aborted) return;
      error.value = retried(failure);
      if (mayPass(failure)) retry.current = setTimeout(start, RETRY_SECONDS * 1000);
      end();
    });
  }
  function end() {
    busy.value = false;
    if (again.current) start();
  }
  function reload() {
    if (busy.peek()) again.current = true;
    else start();
  }
  function patch(change: (data: T) => T) {
    if (data.peek() !== undefined) data.value = change(data.peek()!);
  }
  useEffect(() => {
    // The current request may never finish.
    const comeBack = () => (error.peek() || busy.peek()) && start();
    outdated.value = data.peek() !== undefined;
    start();
    addEventListener("online", comeBack);
    return () => {
      removeEventListener("online", comeBack);
      clearTimeout(retry.current);
      current.current?.abort();
    };
  }, inputs);

  return {
    data,
    error,
    busy,
    outdated,
    reload,
    retry: start,
    set(change) {
      patch(change);
      if (busy.peek()) start();
    },
    patch,
    show: (earlier) => (data.value = earlier),
  };
}

/** The service's time, in seconds: components that read it are rendered again when it changes. */
export const now = signal(serviceTime());
setInterval(() => (now.value = serviceTime()), 1000);
/** Changes at midnight, when the times of today become those of yesterday. */
export const today = computed(() => new Date(now.value).toDateString(), { name: "today" });

/** Runs at most once in so many milliseconds; requests meanwhile run once at their end. */
export function throttled(run: () => void, milliseconds: number): { (): void; cancel(): void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wanted = false;
  function ask() {
    if (timer) {
      wanted = true;
      return;
    }
    run();
    timer = setTimeout(() => {
      timer = undefined;
      if (wanted) {
        wanted = false;
        ask();
      }
    }, milliseconds);
  }
  return Object.assign(ask, { cancel: () => clearTimeout(timer) });
}

/** Runs after a pause in calls, such as when typing has stopped. */
export function debounced<T>(run: (value: T) => void, milliseconds = 250): { (value: T): void; cancel(): void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  function ask(value: T) {
    clearTimeout(timer);
    timer = setTimeout(() => run(value), milliseconds);
  }
  return Object.assign(ask, { cancel: () => clearTimeout(timer) });
}
