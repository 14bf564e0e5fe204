// The rows of a draft without room for a grid: a card each, with the cells that have problems.
import { useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import { CELL, type Draft, type Filter, messageOf, MOST_ROWS, type Row, sharedColumn, textOf, useChanges } from "../draft.ts";
import { counted, found, number } from "../format.ts";
import { useLoad } from "../load.ts";
import { announce } from "../parts/announce.tsx";
import { useShown } from "../parts/form.tsx";
import { Loading, Problem } from "../parts/misc.tsx";
import { can } from "../session.ts";

const PAGE = 25;

export function Cards({ draft, filter }: { draft: Draft; filter: Filter }) {
  const most = useSignal(PAGE);
  const version = draft.version.value;
  const key = JSON.stringify(filter);
  const shownKey = useRef(key);
  const page = useLoad(async (signal) => {
    const answer = await draft.rows(filter, 0, most.peek(), signal);
    if (shownKey.current !== key) announce(found(answer.total));
    shownKey.current = key;
    return answer;
  }, [key, version, most.value]);
  useEffect(() => {
    most.value = PAGE;
  }, [key]);
  useChanges(draft, () => page.patch((data) => ({ ...data, rows: draft.current(data.rows) })));
  // What is typed into a cell would be lost with its card.
  const typing = useSignal(false);
  const latest = useRef(page.data.value);
  if (!typing.value) latest.current = page.data.value;
  const data = latest.current;
  if (!data) return page.error.value ? <Problem error={page.error.value} onRetry={page.reload} /> : <Loading />;
  return (
    <div class="cards" onInput={() => (typing.value = true)} onFocusOut={() => (typing.value = false)}>
      <p class="soft">{counted(data.total, "row")}</p>
      {data.rows.map((row) => <Card key={row.position} draft={draft} row={row} />)}
      {data.rows.length < data.total && (
        most.value < MOST_ROWS
          ? <button type="button" class="more" onClick={() => (most.value = Math.min(MOST_ROWS, most.value + PAGE))}>Show more</button>
          : <p class="soft">These are the first {number(data.rows.length)}. Search, or choose a kind of problem, to see the others.</p>
      )}
    </div>
  );
}

function Card({ draft, row }: { draft: Draft; row: Row }) {
  const mayChange = can("jobs:write");
  const columns = draft.upload.value.columns;
  const id = useId();
  const title = columns.slice(0, 3).map((column) => textOf(row, column.number)).filter(Boolean).join(", ");
  // A field without a column of its own is in the cell with the rest of the address, or belongs there.
  const shared = row.problems.some(({ column, field }) => !column && field?.startsWith("address.")) && sharedColumn(draft.upload.value);
  return (
    <section class="card" aria-label={`Row ${number(row.line)}`}>
      <h2>
        Row {number(row.line)} <small>{title}</small>
      </h2>
      {shared && !row.problems.some(({ column }) => column === shared) && <Cell draft={draft} row={row} column={shared} />}
      {row.problems.map((problem, place) => (
        <div key={`${problem.field} ${problem.code}`}>
          {problem.column ? <Cell draft={draft} row={row} column={problem.column} problem={`${id}-${place}`} /> : null}
          <p id={`${id}-${place}`} class="alert">{messageOf(problem)}</p>
          {mayChange && problem.suggestion && problem.column && (
            <button
              type="button"
              onClick={() => draft.edit([{ row, column: problem.column!, value: problem.suggestion! }])}
            >
              Use {problem.suggestion}
            </button>
          )}
        </div>
      ))}
      {row.warnings.map((warning) => <p key={`${warning.field} ${warning.code}`} class="warn">{warning.message}</p>)}
      {mayChange && (
        <button type="button" onClick={() => draft.skip([row], !row.skipped)}>{row.skipped ? "Take it back" : "Leave it out"}</button>
      )}
    </section>
  );
}

interface CellProperties {
  draft: Draft;
  row: Row;
  column: number;
  /** The id of what is wrong with it. */
  problem?: string;
}

function Cell({ draft, row, column, problem }: CellProperties) {
  const text = textOf(row, column);
  const input = useShown(text);
  return (
    <label>
      {draft.upload.value.columns.find(({ number }) => number === column)?.header || `Column ${column}`}
      <input
        ref={input}
        {...CELL}
        aria-invalid={problem !== undefined}
        aria-describedby={problem}
        readOnly={!can("jobs:write")}
        defaultValue={text}
        onChange={(event) => draft.edit([{ row, column, value: event.currentTarget.value }])}
      />
    </label>
  );
}
