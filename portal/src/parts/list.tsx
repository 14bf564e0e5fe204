// Lists of the API: loaded page by page while scrolling, with only the pages near the viewport in the document.
import { cloneElement, type ComponentChildren, type VNode } from "preact";
import { effect, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { found, number } from "../format.ts";
import { type Loaded, useLoad } from "../load.ts";
import { entry } from "../router.ts";
import { session } from "../session.ts";
import { announce, notify } from "./announce.tsx";
import { Loading, Problem } from "./misc.tsx";

export const PAGE = 50;
/** How far outside the viewport rows are already in the document. */
const NEAR = "600px";

interface Page<T> {
  rows: T[];
  /** null: the API does not count these. */
  total: number | null;
  next_cursor: string | null;
}

export interface Pages<T> extends Loaded<Page<T>[]> {
  more: () => Promise<void>;
  /** The rows may have changed: reloads the visible pages, and the others once they become visible. Returns why one is not reloaded. */
  refresh: () => Promise<Error | undefined>;
  /** Reloads the visible pages that are outdated. */
  renew: () => Promise<Error | undefined>;
  /** Changes how a row is shown. */
  replace: (change: (row: T) => T) => void;
  /** The pages near the viewport, by index. */
  inSight: Set<number>;
}

/** Lists as they were left, by entry of the history and inputs: "back" leads to the same rows. */
const left = new Map<string, Page<unknown>[]>();
const MOST_LEFT = 20;
effect(() => {
  session.value;
  left.clear();
});

/** A list from `load`: the first page initially and when `inputs` change, the others on demand. */
export function usePages<T>(
  load: (query: { limit: number; cursor?: string }, signal?: AbortSignal) => Promise<Page<T>>,
  inputs: unknown[],
): Pages<T> {
  const state = useRef({
    load,
    list: 0,
    age: 0,
    loading: 0,
    /** null: not in progress. */
    renewal: null as Promise<Error | undefined> | null,
    again: false,
    ages: new WeakMap<Page<T>, number>(),
    /** Pages after the first one, as they were left. */
    others: [] as Page<T>[],
  }).current;
  const inSight = useRef(new Set<number>()).current;
  async function bring(cursor?: string, signal?: AbortSignal) {
    const { age } = state;
    const page = await state.load({ limit: PAGE, cursor }, signal);
    state.ages.set(page, age);
    return page;
  }
  useEffect(() => {
    // Pending requests continue with the current list.
    state.load = load;
    state.list++;
    return () => state.list++;
  }, inputs);
  const loaded = useLoad(async (signal) => {
    const first = await bring(undefined, signal);
    const others = first.next_cursor ? state.others : [];
    state.others = [];
    // Once it is shown: those in sight are loaded again.
    if (others.length > 0) setTimeout(renew);
    return [first, ...others];
  }, inputs);
  useLayoutEffect(() => {
    const place = `${entry()} ${JSON.stringify(inputs)}`;
    const before = left.get(place) as Page<T>[] | undefined;
    if (before && entry()) loaded.show(before);
    state.others = before?.slice(1) ?? [];
    return () => {
      const pages = loaded.outdated.peek() ? undefined : loaded.data.peek();
      if (!pages) return;
      left.delete(place);
      left.set(place, pages);
      if (left.size > MOST_LEFT) left.delete(left.keys().next().value!);
    };
  }, inputs);

  async function more() {
    const cursor = loaded.data.peek()?.at(-1)?.next_cursor;
    const { list } = state;
    if (!cursor || loaded.outdated.peek() || state.loading === list) return;
    state.loading = list;
    let isRefreshed = false;
    try {
      const page = await bring(cursor);
      // Another list may have replaced this one meanwhile.
      isRefreshed = list === state.list && loaded.data.peek()?.at(-1)?.next_cursor !== cursor;
      if (list === state.list && !isRefreshed) loaded.patch((pages) => [...pages, page]);
    } catch (failure) {
      if (list === state.list) notify((failure as Error).message);
    }
    if (state.loading === list) state.loading = 0;
    if (isRefreshed) await more();
  }
  async function renewPage(place: number) {
    const { list } = state;
    const [before, page] = [place - 1, place].map((at) => loaded.data.peek()?.[at]);
    if (!page || loaded.outdated.peek() || state.ages.get(page) === state.age) return;
    if (before && !before.next_cursor) return loaded.patch((pages) => pages.slice(0, place));
    const fresh = await bring(before?.next_cursor ?? undefined);
    if (list === state.list) loaded.patch((pages) => pages.map((old, at) => at === place ? fresh : old));
  }
  function renew() {
    state.again = true;
    return state.renewal ??= renewAll();
  }
  async function renewAll() {
    let failure: Error | undefined;
    while (state.again) {
      state.again = false;
      failure = undefined;
      const places = inSight.size > 0 ? [...inSight].sort((one, other) => one - other) : [0];
      // The next change or scroll tries again.
      for (const place of places) await renewPage(place).catch((error) => (failure = error));
    }
    state.renewal = null;
    return failure;
  }
  return {
    ...loaded,
    more,
    async refresh() {
      state.age++;
      if (loaded.data.peek()) return await renew();
      loaded.reload();
      return loaded.error.peek();
    },
    renew,
    inSight,
    replace: (change) => loaded.patch((pages) => pages.map((page) => ({ ...page, rows: page.rows.map(change) }))),
  };
}

interface ListProperties<T> {
  pages: Pages<T>;
  /** Titles; one that begins with `#` is aligned to the right, as for numbers and buttons. */
  columns: string[];
  row: (row: T) => VNode;
  empty: ComponentChildren;
  class?: string;
}

/** The table of a list: every row is a `<tr>`. On a phone, a row becomes a card. */
export function List<T>({ pages, columns, row, empty, class: more = "" }: ListProperties<T>) {
  const { error: { value: error }, outdated: { value: isOutdated } } = pages;
  // Keep showing the rows of the previous filter until those of the new one arrive, or fail to.
  const data = isOutdated && error ? undefined : pages.data.value;
  const shown = data?.reduce((sum, { rows }) => sum + rows.length, 0);
  const last = data?.at(-1);
  const wasOutdated = useRef(false);
  useEffect(() => {
    if (wasOutdated.current && !isOutdated && last) {
      announce(last.next_cursor && last.total === null ? `More than ${found(shown!)}` : found(last.total ?? shown!));
    }
    wasOutdated.current = isOutdated;
  }, [isOutdated]);
  return (
    <>
      <Problem error={error} onRetry={pages.retry} />
      {!error && (!data || (isOutdated && shown === 0)) && <Loading />}
      {shown === 0 && !isOutdated && <div class="empty">{empty}</div>}
      {data && last && shown !== 0 && (
        <table class={`rows ${more}`} aria-busy={isOutdated} aria-rowcount={last.next_cursor ? (last.total ?? -2) + 1 : shown! + 1}>
          <thead>
            <tr aria-rowindex={1}>
              {columns.map((title) => <th key={title} class={title.startsWith("#") ? "number" : undefined}>{title.replace("#", "")}</th>)}
            </tr>
          </thead>
          {data.map((page, place) => <Part key={place} pages={pages} page={page} place={place} columns={columns.length} row={row} />)}
        </table>
      )}
      {last?.next_cursor && (
        <p class="on-paper">
          The first {number(shown!)}
          {last.total !== null && ` of ${number(last.total)}`}: the others are not printed.
        </p>
      )}
      {last?.next_cursor && !isOutdated && <More key={last.next_cursor} more={pages.more} />}
    </>
  );
}

interface PartProperties<T> {
  pages: Pages<T>;
  page: Page<T>;
  place: number;
  columns: number;
  row: (row: T) => VNode;
}

/** A page of a list; outside the viewport, an empty row of the same height, except for the first page. */
function Part<T>({ pages: { inSight, renew }, page, place, columns, row }: PartProperties<T>) {
  const body = useRef<HTMLTableSectionElement>(null);
  /** null: visible. */
  const height = useSignal<number | null>(null);
  useEffect(() => {
    const show = () => (height.value = null);
    inSight.add(place);
    const observer = new IntersectionObserver((entries) => {
      const { isIntersecting, boundingClientRect } = entries.at(-1)!;
      if (!isIntersecting) inSight.delete(place);
      else if (!inSight.has(place)) {
        inSight.add(place);
        renew();
      }
      // Keep the focused row and the first rows, which full-page screenshots show.
      const away = place > 0 && !isIntersecting && !body.current!.contains(document.activeElement);
      height.value = away ? boundingClientRect.height : null;
    }, { rootMargin: NEAR });
    observer.observe(body.current!);
    addEventListener("beforeprint", show);
    return () => {
      observer.disconnect();
      removeEventListener("beforeprint", show);
      inSight.delete(place);
    };
  }, []);
  return (
    <tbody ref={body}>
      {height.value === null
        ? page.rows.map((each, index) => cloneElement(row(each), { "aria-rowindex": place * PAGE + index + 2 }))
        : (
          <tr class="away" style={{ height: `${height.value}px` }}>
            <td colSpan={columns} />
          </tr>
        )}
    </tbody>
  );
}

/** Loads more when it approaches the viewport. */
function More({ more }: { more: () => Promise<void> }) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry!.isIntersecting && more(), { rootMargin: NEAR });
    observer.observe(button.current!);
    return () => observer.disconnect();
  }, []);
  return <button ref={button} type="button" class="more" onClick={more}>Show more</button>;
}
