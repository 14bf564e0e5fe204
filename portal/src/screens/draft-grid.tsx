// The rows of a draft as a grid (https://www.w3.org/WAI/ARIA/apg/patterns/grid/): only visible rows are in the page, and loaded.
import { Component } from "preact";
import { batch, useComputed, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type { Schemas } from "../api.ts";
import {
  CELL,
  cellsOf,
  type Draft,
  type Filter,
  messageOf,
  MOST_EDITS,
  MOST_ROWS,
  type Row,
  textOf,
  textOfCells,
  useChanges,
} from "../draft.ts";
import { counted, found, number } from "../format.ts";
import { mayPass, retried, RETRY_SECONDS } from "../load.ts";
import { announce, notify } from "../parts/announce.tsx";
import { copy } from "../parts/copy.tsx";
import { Problem } from "../parts/misc.tsx";
import { can } from "../session.ts";

const ROW = 34;
const SPARE = 6;
const PAGE = 100;
const LINE_WIDTH = 64;
const CELL_WIDTH = 168;

/** The focused cell, as the rows see it. */
interface Cursor {
  place(): number;
  isEditing(): boolean;
  /** Moves with its rows, some of which `placeOf` knows by their former places. */
  follow(placeOf: (before: number) => number | undefined): void;
}

/** Rows by their place in the filter, if they have been loaded. */
class Rows {
  readonly changed;
  readonly total;
  readonly error;
  cursor?: Cursor;
  /** Renders pages that have arrived. */
  private waiting: (() => void)[] = [];
  private rows = new Map<number, Row>();
  /** From before the rows were validated again: shown until the new ones have arrived. */
  private old = new Map<number, Row>();
  private asked = new Set<number>();
  private abort = new AbortController();

  constructor(readonly draft: Draft, private filter: Filter, signals: {
    changed: { value: number };
    total: { value: number | null };
    error: { value: Error | undefined };
  }) {
    this.changed = signals.changed;
    this.total = signals.total;
    this.error = signals.error;
  }

  at(index: number): Row | undefined {
    return this.rows.get(index) ?? this.old.get(index);
  }

  /** The rows from one place to another, inclusive; missing ones are loaded. */
  async between(first: number, last: number): Promise<Row[]> {
    const found: Row[] = [];
    while (first + found.length <= last) {
      const next = first + found.length;
      const known = this.at(next);
      if (known) found.push(known);
      else {
        const { rows } = await this.draft.rows(this.filter, next, Math.min(MOST_ROWS, last - next + 1));
        if (rows.length === 0) break;
        found.push(...rows);
      }
    }
    return found;
  }

  /** Reloads, perhaps with another filter. */
  restart(filter: Filter, keep: boolean) {
    this.abort.abort();
    this.abort = new AbortController();
    this.old = keep ? new Map([...this.old, ...this.rows]) : new Map();
    this.filter = filter;
    this.rows = new Map();
    this.waiting = [];
    this.asked.clear();
  }

  stop() {
    this.abort.abort();
  }

  async need(from: number, to: number) {
    let first = from;
    while (first < to && this.rows.has(first)) first++;
    const start = Math.max(0, first - first % PAGE);
    const offset = this.rows.has(start) ? first : start;
    if (first >= to || this.asked.has(offset)) return;
    this.asked.add(offset);
    const { signal } = this.abort;
    try {
      const page = await this.draft.rows(this.filter, offset, PAGE, signal);
      if (signal.aborted) return;
      const show = () => {
        this.show(page, offset);
        if (page.rows.length) this.need(from, Math.min(to, page.total));
      };
      if (this.cursor?.isEditing() && this.moves(page, offset)) this.waiting.push(show);
      else show();
    } catch (failure) {
      if (signal.aborted) return;
      this.asked.delete(offset);
      this.error.value = retried(failure as Error);
    }
  }

  /** Shows changes that are still to be confirmed. */
  change() {
    for (const known of [this.rows, this.old]) {
      const [places, rows] = [[...known.keys()], this.draft.current([...known.values()])];
      places.forEach((place, index) => known.set(place, rows[index]!));
    }
    this.changed.value++;
  }

  /** Shows what arrived while a cell was edited. */
  resume() {
    for (const show of this.waiting.splice(0)) show();
  }

  /** Whether another row moves to the place of the focused one: what is typed there would go to the wrong row. */
  private moves({ rows, total }: Page, offset: number): boolean {
    const place = this.cursor!.place();
    const before = this.at(place);
    const after = rows[place - offset];
    return before !== undefined && (place >= total || (after !== undefined && after.position !== before.position));
  }

  private show({ rows, total }: Page, offset: number) {
    batch(() => {
      this.cursor?.follow((before) => {
        const row = this.at(before);
        const place = row ? rows.findIndex(({ position }) => position === row.position) : -1;
        return place < 0 ? undefined : offset + place;
      });
      rows.forEach((row, index) => this.rows.set(offset + index, row));
      for (const index of this.old.keys()) if (index >= total || this.rows.has(index)) this.old.delete(index);
      this.total.value = total;
      this.error.value = undefined;
      this.changed.value++;
    });
  }
}

type Page = Awaited<ReturnType<Draft["rows"]>>;
type Cells = Parameters<Draft["edit"]>[0];

export function Grid({ draft, filter: wantedFilter }: { draft: Draft; filter: Filter }) {
  const mayChange = can("jobs:write");
  const changed = useSignal(0);
  const total = useSignal<number | null>(null);
  const error = useSignal<Error | undefined>(undefined);
  const top = useSignal(0);
  const height = useSignal(400);
  const wanted = useSignal({ row: 0, column: 1 });
  /** The focused cell: the chosen one, or the last row if there are fewer now. */
  const focus = useComputed(() => ({ ...wanted.value, row: clamp(wanted.value.row, 0, Math.max(1, total.value ?? Infinity) - 1) }));
  /** Where a range in one column began; the focus is its other end. */
  const anchor = useSignal<number | null>(null);
  const editing = useSignal<string | null>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const wantsFocus = useRef(false);
  const wasShown = useRef(false);
  // Once the last row with a problem is repaired, show all rows, but not while typing in it continues.
  const latest = useRef(wantedFilter);
  if (editing.value === null) latest.current = wantedFilter;
  const filter = latest.current;
  const rows = useMemo(() => new Rows(draft, filter, { changed, total, error }), [draft]);
  const key = JSON.stringify(filter);
  const version = draft.version.value;
  const columns = draft.upload.value.columns;

  const first = Math.max(0, Math.floor(top.value / ROW) - SPARE);
  const last = Math.min(total.value ?? PAGE, Math.ceil((top.value + height.value) / ROW) + SPARE);

  useEffect(() => {
    rows.restart(filter, false);
    total.value = null;
    wanted.value = { row: 0, column: 1 };
    anchor.value = null;
    editing.value = null;
    scroller.current!.scrollTop = 0;
    const isFiltered = wasShown.current;
    wasShown.current = true;
    rows.need(0, PAGE).then(() => {
      if (isFiltered && total.peek() !== null) announce(found(total.peek()!));
      // Scroll to what is wrong, however many columns the file has.
      const wrong = rows.at(0)?.problems.find(({ code, field, column }) => column && fits(filter, code, field))?.column;
      if (wrong && scroller.current && focus.peek().row === 0) {
        wanted.value = { row: 0, column: wrong };
        show(0, wrong);
      }
    });
  }, [key]);
  useEffect(() => {
    if (version === 0) return;
    rows.restart(filter, true);
    rows.need(first, last);
  }, [version]);
  useEffect(() => {
    rows.need(first, last);
  }, [first, last]);
  useEffect(() => {
    if (!mayPass(error.value)) return;
    const again = () => rows.need(first, last);
    const timer = setTimeout(again, RETRY_SECONDS * 1000);
    addEventListener("online", again);
    return () => {
      clearTimeout(timer);
      removeEventListener("online", again);
    };
  }, [error.value, first, last]);
  useEffect(() => () => rows.stop(), [rows]);
  useChanges(draft, () => rows.change());
  useEffect(() => {
    rows.cursor = { place: () => focus.peek().row, isEditing: () => editing.peek() !== null, follow };
    if (editing.value === null) rows.resume();
  }, [rows, editing.value === null]);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => (height.value = entry!.contentRect.height));
    observer.observe(scroller.current!);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (!wantsFocus.current || editing.value !== null) return;
    const cell = scroller.current!.querySelector<HTMLElement>("[data-focused]");
    if (cell) {
      cell.focus({ preventScroll: true });
      wantsFocus.current = false;
    }
  });

  function move(row: number, column: number, extend = false) {
    const at = { row: clamp(row, 0, (total.peek() ?? Infinity) - 1), column: clamp(column, 1, columns.length) };
    anchor.value = extend ? anchor.peek() ?? focus.peek().row : null;
    wanted.value = at;
    wantsFocus.current = true;
    show(at.row, at.column);
  }

  function follow(placeOf: (before: number) => number | undefined) {
    const { row, column } = focus.peek();
    const place = placeOf(row);
    if (place === undefined || place === row) return;
    anchor.value = anchor.peek() === null ? null : placeOf(anchor.peek()!) ?? null;
    wanted.value = { row: place, column };
    wantsFocus.current = scroller.current!.contains(document.activeElement);
    show(place, column);
  }

  function show(row: number, column: number) {
    const box = scroller.current!;
    const y = row * ROW;
    // The header row is sticky.
    if (y < box.scrollTop) box.scrollTop = y;
    else if (y + 2 * ROW > box.scrollTop + box.clientHeight) box.scrollTop = y + 2 * ROW - box.clientHeight;
    const x = (column - 1) * CELL_WIDTH;
    if (x < box.scrollLeft) box.scrollLeft = x;
    else if (x + CELL_WIDTH + LINE_WIDTH > box.scrollLeft + box.clientWidth) box.scrollLeft = x + CELL_WIDTH + LINE_WIDTH - box.clientWidth;
  }

  const range = useComputed((): [number, number] => {
    const other = anchor.value ?? focus.value.row;
    return [Math.min(other, focus.value.row), Math.max(other, focus.value.row)];
  });

  function finish(value: string | null, step?: [down: number, right: number]) {
    const { row: index, column } = focus.peek();
    const row = rows.at(index);
    editing.value = null;
    if (value !== null && row) draft.edit([{ row, column, value }]);
    if (step) move(index + step[0], column + step[1]);
  }

  /** Fills the range with the first cell's text; a single cell with that of the cell above. */
  async function fillDown() {
    const { column } = focus.peek();
    const [from, to] = range.peek();
    const [source, ...below] = await rows.between(Math.max(0, from === to ? from - 1 : from), to);
    if (source) draft.edit(below.map((row) => ({ row, column, value: textOf(source, column) })), "filling down");
  }

  async function leaveOut() {
    const several = await rows.between(...range.peek());
    if (several[0]) draft.skip(several, !several[0].skipped);
  }

  /** The cells of the range, with their texts. The focus may move meanwhile. */
  async function chosenCells(): Promise<Cells> {
    const { column } = focus.peek();
    return (await rows.between(...range.peek())).map((row) => ({ row, column, value: textOf(row, column) }));
  }

  function clear(cells: Cells, title: string) {
    draft.edit(cells.map((cell) => ({ ...cell, value: "" })), title);
  }

  /** Returns whether the browser allowed it. */
  function copyCells(cells: Cells): Promise<boolean> {
    return copy(textOfCells(cells.map(({ value }) => [value])), counted(cells.length, "cell"));
  }

  async function cut() {
    const cells = await chosenCells();
    if (await copyCells(cells)) clear(cells, "cutting cells");
  }

  /** Pastes a block of cells at the focus; a single row of cells into each row of the range. */
  async function paste(event: ClipboardEvent) {
    const text = event.clipboardData!.getData("text/plain");
    if (!mayChange || editing.peek() !== null || text === "") return;
    event.preventDefault();
    const block = cellsOf(text);
    const { column } = focus.peek();
    const [from, to] = range.peek();
    const wanted = block.length === 1 ? to - from + 1 : block.length;
    const widest = block.reduce((most, { length }) => Math.max(most, length), 0);
    const width = Math.min(widest, columns.length - column + 1);
    if (wanted * width > MOST_EDITS) return notify(`At most ${number(MOST_EDITS)} cells can be pasted at a time.`);
    const found = await rows.between(from, from + wanted - 1);
    const cells = found.flatMap((row, index) =>
      block[index % block.length]!.slice(0, width).map((value, place) => ({ row, column: column + place, value }))
    );
    const left = block.flat().length * (wanted / block.length) - cells.length;
    if (await draft.edit(cells, "pasting")) {
      notify(`${counted(cells.length, "cell")} pasted${left > 0 ? `; ${counted(left, "other does", "others do")} not fit here` : ""}`);
    }
  }

  function onKey(event: KeyboardEvent) {
    if (editing.peek() !== null || event.target instanceof HTMLButtonElement) return;
    const { row, column } = focus.peek();
    const control = event.ctrlKey || event.metaKey;
    const page = Math.max(1, Math.floor(height.peek() / ROW) - 2);
    const lastRow = (total.peek() ?? 1) - 1;
    const moves: Record<string, () => void> = {
      ArrowUp: () => move(control ? 0 : row - 1, column, event.shiftKey),
      ArrowDown: () => move(control ? lastRow : row + 1, column, event.shiftKey),
      ArrowLeft: () => move(row, control ? 1 : column - 1),
      ArrowRight: () => move(row, control ? columns.length : column + 1),
      PageUp: () => move(row - page, column, event.shiftKey),
      PageDown: () => move(row + page, column, event.shiftKey),
      Home: () => move(control ? 0 : row, 1),
      End: () => move(control ? lastRow : row, columns.length),
    };
    const clearChosen = () => chosenCells().then((cells) => clear(cells, "clearing cells"));
    const changes: typeof moves = { Enter: () => edit(), F2: () => edit(), Delete: clearChosen, Backspace: clearChosen, " ": leaveOut };
    const commands: typeof moves = { c: () => chosenCells().then(copyCells), ...(mayChange && { d: fillDown, x: cut }) };
    if (mayChange) Object.assign(moves, changes);
    const command = control && !event.shiftKey && !event.altKey && commands[event.key.toLowerCase()];
    if (command) command();
    else if (moves[event.key] && (!control || /^(Home|End|Arrow\w+)$/.test(event.key))) moves[event.key]!();
    else if (event.key.length === 1 && !control && !event.altKey && mayChange) edit(event.key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function onMouseDown(event: MouseEvent) {
    const at = cellOf(event);
    if (!at || (editing.peek() !== null && at.row === focus.peek().row && at.column === focus.peek().column)) return;
    // Typed text belongs to the cell that is left.
    if (editing.peek() !== null) (document.activeElement as HTMLElement).blur();
    move(at.row, at.column, event.shiftKey);
  }

  function edit(typed?: string) {
    const { row, column } = focus.peek();
    const current = rows.at(row);
    if (current) editing.value = typed ?? textOf(current, column);
  }

  changed.value;
  const focused = rows.at(focus.value.row);
  const inSight = focus.value.row >= first && focus.value.row < last;
  const shown = [];
  for (let index = first; index < last; index++) shown.push(index);
  // The focused row stays in the page when it is scrolled out of view.
  if (!inSight && focus.value.row < (total.value ?? 0)) shown.push(focus.value.row);
  return (
    <>
      <Problem error={error.value} onRetry={() => rows.need(first, last)} />
      <div
        ref={scroller}
        class="grid"
        role="grid"
        aria-label="Rows of the draft"
        aria-rowcount={(total.value ?? 0) + 1}
        aria-colcount={columns.length + 1}
        aria-multiselectable="true"
        aria-readonly={!mayChange}
        style={{ maxHeight: `${((total.value ?? PAGE) + 1) * ROW + 20}px` }}
        tabIndex={total.value ? -1 : 0}
        onScroll={(event) => (top.value = event.currentTarget.scrollTop)}
        onKeyDown={onKey}
        onPaste={paste}
        onFocus={(event) => {
          if (event.target === event.currentTarget && total.peek()) move(focus.peek().row, focus.peek().column);
        }}
      >
        <div class="grid-row grid-head" role="row" aria-rowindex={1}>
          <span role="columnheader" aria-colindex={1}>Row</span>
          {columns.map((column, index) => (
            <span key={column.number} role="columnheader" aria-colindex={index + 2} title={column.header}>
              {column.header || `Column ${column.number}`}
            </span>
          ))}
        </div>
        <div
          class="grid-body"
          role="rowgroup"
          style={{ height: `${(total.value ?? 0) * ROW}px`, width: `${LINE_WIDTH + columns.length * CELL_WIDTH}px` }}
          onMouseDown={onMouseDown}
          onDblClick={(event) => mayChange && cellOf(event) && edit()}
        >
          {shown.map((index) => {
            const inFocus = index === focus.value.row;
            const picked = anchor.value !== null && index >= range.value[0] && index <= range.value[1];
            return (
              <GridRow
                key={index}
                index={index}
                row={rows.at(index)}
                columns={columns}
                focus={inFocus ? focus.value.column : 0}
                picked={picked ? focus.value.column : 0}
                text={inFocus ? editing.value : null}
                onDone={inFocus ? finish : null}
              />
            );
          })}
        </div>
      </div>
      {total.value === 0 && <p class="empty">No matching rows.</p>}
      {focused && total.value !== 0 && <Detail draft={draft} row={focused} column={columns[focus.value.column - 1]!.number} />}
    </>
  );
}

interface RowProperties {
  index: number;
  row: Row | undefined;
  columns: Schemas["FileColumn"][];
  /** The column of the focused cell; 0: it is in another row. */
  focus: number;
  /** The column of a cell that is selected with others. */
  picked: number;
  /** The text being edited in the focused cell. */
  text: string | null;
  onDone: EditorProperties["onDone"] | null;
}

/** Rendered again only if its properties change: most rows stay the same while scrolling. */
class GridRow extends Component<RowProperties> {
  override shouldComponentUpdate(next: RowProperties) {
    return (Object.keys(next) as (keyof RowProperties)[]).some((name) => next[name] !== this.props[name]);
  }

  render({ index, row, columns, focus, picked, text: edited, onDone }: RowProperties) {
    return (
      <div
        class={row?.skipped ? "grid-row skipped" : "grid-row"}
        role="row"
        aria-rowindex={index + 2}
        style={{ top: `${index * ROW}px` }}
      >
        <span role="rowheader" aria-colindex={1}>{row ? number(row.line) : "…"}</span>
        {columns.map((column, place) => {
          const at = focus === place + 1;
          const wrong = row?.problems.find((problem) => problem.column === column.number);
          const warned = row?.warnings.find((warning) => warning.column === column.number);
          const text = row ? textOf(row, column.number) : "";
          return (
            <span
              key={column.number}
              role="gridcell"
              aria-colindex={place + 2}
              aria-invalid={wrong ? "true" : undefined}
              aria-selected={picked === place + 1 || at}
              tabIndex={at ? 0 : -1}
              data-focused={at ? "" : undefined}
              aria-describedby={at ? "row-in-focus" : undefined}
              class={wrong ? "wrong" : row?.edits[column.number] !== undefined ? "edited" : warned ? "warned" : undefined}
              title={wrong?.message ?? warned?.message ?? text}
            >
              {at && edited !== null && onDone
                ? <Editor text={edited} label={column.header} onDone={onDone} />
                : text || (wrong && <span class="nothing">empty</span>)}
            </span>
          );
        })}
      </div>
    );
  }
}

/** The cell of an event, by its place in the grid. */
function cellOf(event: Event): { row: number; column: number } | null {
  const cell = (event.target as Element).closest("[role=gridcell]");
  if (!cell) return null;
  const place = (element: Element, name: string) => Number(element.getAttribute(name));
  return { row: place(cell.parentElement!, "aria-rowindex") - 2, column: place(cell, "aria-colindex") - 1 };
}

/** What is wrong with the focused row, and what would correct it. */
function Detail({ draft, row, column }: { draft: Draft; row: Row; column: number }) {
  const mayChange = can("jobs:write");
  const problems = [...row.problems].sort((one, other) => Number(other.column === column) - Number(one.column === column));
  return (
    <div class="detail">
      <div id="row-in-focus">
        {problems.map((problem) => (
          <p key={`${problem.field} ${problem.code}`}>
            <span class="alert">{messageOf(problem)}</span> {mayChange && problem.suggestion && problem.column && (
              <button
                type="button"
                onClick={() => draft.edit([{ row, column: problem.column!, value: problem.suggestion! }])}
              >
                Use {problem.suggestion}
              </button>
            )}
          </p>
        ))}
        {row.warnings.map((warning) => <p key={`${warning.field} ${warning.code}`} class="warn">{warning.message}</p>)}
        {row.skipped && <p class="soft">This row is left out.</p>}
      </div>
      {mayChange && (
        <button type="button" class="quiet" onClick={() => draft.skip([row], !row.skipped)}>
          {row.skipped ? `Take row ${number(row.line)} back` : `Leave row ${number(row.line)} out`}
        </button>
      )}
    </div>
  );
}

interface EditorProperties {
  text: string;
  label: string;
  /** null: the cell stays unchanged. Without a step, the focus has already moved. */
  onDone: (value: string | null, step?: [down: number, right: number]) => void;
}

function Editor({ text, label, onDone }: EditorProperties) {
  const input = useRef<HTMLInputElement>(null);
  const done = useRef(false);
  useLayoutEffect(() => {
    input.current!.focus();
    // Browsers put the caret before the text, so the first typed letter would become the last.
    input.current!.setSelectionRange(text.length, text.length);
  }, []);
  function finish(...given: Parameters<typeof onDone>) {
    if (done.current) return;
    done.current = true;
    onDone(...given);
  }
  return (
    <input
      ref={input}
      {...CELL}
      aria-label={label}
      defaultValue={text}
      onKeyDown={(event) => {
        // These keys choose and end what an input method suggests; the last one has this code in some browsers.
        if (event.isComposing || event.keyCode === 229) return;
        const value = event.currentTarget.value;
        const forth = event.shiftKey ? -1 : 1;
        if (event.key === "Enter") finish(value, [forth, 0]);
        else if (event.key === "Tab") finish(value, [0, forth]);
        else if (event.key === "Escape") finish(null, [0, 0]);
        else return;
        event.preventDefault();
        event.stopPropagation();
      }}
      onBlur={(event) => finish(event.currentTarget.value)}
    />
  );
}

function fits(filter: Filter, code: string, field: string | null): boolean {
  return (!filter.problem || filter.problem === "any" || filter.problem === code) && (!filter.field || filter.field === field);
}

function clamp(value: number, least: number, most: number): number {
  return Math.max(least, Math.min(most, value));
}
