// Lists of the API, page by page.
import type { ComponentChild, ComponentChildren } from "preact";
import { type Loaded, useLoad } from "../load.ts";
import { Loading, Problem } from "./misc.tsx";

export const PAGE = 50;

interface Page<T> {
  rows: T[];
  /** null: the API does not count these. */
  total: number | null;
  next_cursor: string | null;
}

export interface Pages<T> extends Loaded<Page<T>> {
  more: () => Promise<void>;
  /** Loads the first page again, unless more than that is shown. */
  refresh: () => void;
}

/** A list as `load` brings it: the first page at first and when `inputs` change, the others on demand. */
export function usePages<T>(
  load: (query: { limit: number; cursor?: string }, signal?: AbortSignal) => Promise<Page<T>>,
  inputs: unknown[],
): Pages<T> {
  const first = useLoad((signal) => load({ limit: PAGE }, signal), inputs);
  return {
    ...first,
    async more() {
      const next = await load({ limit: PAGE, cursor: first.data.peek()!.next_cursor! });
      first.set((shown) => ({ ...next, rows: [...shown.rows, ...next.rows] }));
    },
    refresh() {
      if ((first.data.peek()?.rows.length ?? 0) <= PAGE) first.reload();
    },
  };
}

interface ListProperties<T> {
  pages: Pages<T>;
  /** Titles; one that begins with `#` is of numbers. */
  columns: string[];
  row: (row: T) => ComponentChild;
  empty: ComponentChildren;
  class?: string;
}

/** The table of a list: every row is a `<tr>`. On a phone a row becomes a card. */
export function List<T>({ pages, columns, row, empty, class: more = "" }: ListProperties<T>) {
  const data = pages.data.value;
  return (
    <>
      <Problem error={pages.error.value} onRetry={pages.reload} />
      {!data && !pages.error.value && <Loading />}
      {data?.rows.length === 0 && <div class="empty">{empty}</div>}
      {data && data.rows.length > 0 && (
        <table class={`rows ${more}`}>
          <thead>
            <tr>
              {columns.map((title) => <th key={title} class={title.startsWith("#") ? "number" : undefined}>{title.replace("#", "")}</th>)}
            </tr>
          </thead>
          <tbody>{data.rows.map(row)}</tbody>
        </table>
      )}
      {data?.next_cursor && <button type="button" class="more" onClick={pages.more}>Show more</button>}
    </>
  );
}
