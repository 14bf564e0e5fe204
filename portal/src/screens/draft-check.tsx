// What is wrong with the rows: by kind, and cell by cell.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { save } from "../api.ts";
import { type Draft, type Filter, type Group, MOST_EDITS, MOST_ROWS, type Row, textOf, titleOf } from "../draft.ts";
import { counted, number } from "../format.ts";
import { notify } from "../parts/announce.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Command, Form, Search } from "../parts/form.tsx";
import { href, path, query, setQuery } from "../router.ts";
import { can } from "../session.ts";
import { Cards } from "./draft-cards.tsx";
import { FIELD_OF_WORDS } from "./draft-columns.tsx";
import { Grid } from "./draft-grid.tsx";

const narrow = matchMedia("(max-width: 760px)");

const CODES: Record<string, string> = {
  missing: "empty",
  duplicate_reference_id: "repeated",
  unknown_building_type: "not a building type",
  unknown_device: "unknown device",
  invalid_device_ids: "not a list of devices",
  unknown_state: "not a state or province",
  unknown_country: "not a country we know",
  invalid_postal_code: "not a postal code",
  invalid_reference_id: "cannot be a reference",
  postal_code_not_in_state: "not in the state",
  postal_code_corrected: "corrected",
  value_recognized: "read as another form",
  cleaned: "cleaned",
  placeholder_removed: "placeholder removed",
  looks_like_placeholder: "looks like a placeholder",
  looks_like_date: "looks like a date",
  no_house_number: "no house number",
  no_street_name: "only a number",
  two_house_numbers: "two house numbers",
  repeated_unit: "unit given twice",
  rounded_by_spreadsheet: "rounded by the spreadsheet",
};

function groupTitle(group: { field: string | null; code: string }): string {
  return `${titleOf(group.field)}: ${CODES[group.code] ?? group.code.replaceAll("_", " ")}`;
}

export function Check({ draft }: { draft: Draft }) {
  const upload = draft.upload.value;
  const filter = useComputed(() => filterOf(query.value, draft.upload.value.invalid_rows > 0));
  const onPhone = useSignal(narrow.matches);
  const { problem, warning, field, q = "" } = filter.value;
  const group = upload.problem_groups.find((each) => each.code === problem && each.field === (field ?? null));
  const isDone = problem !== undefined && problem !== "any" && !group;
  const shown = query.value.get("rows") ?? (upload.invalid_rows > 0 ? "problems" : "all");
  useEffect(() => {
    const change = () => (onPhone.value = narrow.matches);
    change();
    narrow.addEventListener("change", change);
    return () => narrow.removeEventListener("change", change);
  }, []);
  const mayChange = can("jobs:write");
  const View = onPhone.value ? Cards : Grid;
  return (
    <div class="check-screen">
      <nav class="groups" aria-label="Problems">
        <a href={href(path.value, { step: "check", rows: "problems" })} aria-current={problem === "any" ? "true" : undefined}>
          <span>Rows with problems</span> <span class="count">{number(upload.invalid_rows)}</span>
        </a>
        {upload.problem_groups.map((each) => (
          <GroupLink key={`${each.field} ${each.code}`} group={each} kind="problem" filter={filter.value} />
        ))}
        {upload.warning_groups.length > 0 && <h2>Worth a look</h2>}
        {upload.warning_groups.map((each) => (
          <GroupLink key={`${each.field} ${each.code}`} group={each} kind="warning" filter={filter.value} />
        ))}
        <h2>Rows</h2>
        <a
          href={href(path.value, { step: "check", rows: "all" })}
          aria-current={shown === "all" && !problem && !warning ? "true" : undefined}
        >
          <span>All rows</span> <span class="count">{number(upload.total_rows)}</span>
        </a>
        {upload.skipped_rows > 0 && (
          <a href={href(path.value, { step: "check", rows: "skipped" })} aria-current={shown === "skipped" ? "true" : undefined}>
            <span>Left out</span> <span class="count">{number(upload.skipped_rows)}</span>
          </a>
        )}
      </nav>
      <section aria-label="Rows" class="rows-of-draft">
        <div class="toolbar">
          {group && mayChange
            ? <FixGroup key={`${group.field} ${group.code}`} draft={draft} group={group} filter={filter.value} />
            : (
              <span class="soft">
                {upload.invalid_rows === 0 && (shown === "problems" || isDone) ? "Nothing is left to repair." : isDone
                  ? (
                    <>
                      None of this kind are left. <a href={href(path.value, { step: "check", rows: "problems" })}>See the others</a>
                    </>
                  )
                  : mayChange && !onPhone.value && <Hint />}
              </span>
            )}
          <div class="filters">
            {upload.invalid_rows > 0 && (
              <Command class="quiet" run={() => downloadProblems(draft)}>Download {counted(upload.invalid_rows, "row")}</Command>
            )}
            <Search label="Search cells" value={q} onSearch={(text) => setQuery({ q: text })} />
          </div>
        </div>
        <View draft={draft} filter={filter.value} />
      </section>
    </div>
  );
}

function Hint() {
  return (
    <>
      <kbd>↑</kbd> <kbd>↓</kbd> <kbd>←</kbd> <kbd>→</kbd> move, <kbd>Enter</kbd> edit, <kbd>Ctrl D</kbd> fill down, <kbd>Space</kbd>{" "}
      leave out
    </>
  );
}

function filterOf(parameters: URLSearchParams, problems: boolean): Filter {
  const given = (name: string) => parameters.get(name) ?? undefined;
  const filter: Filter = { problem: given("problem"), warning: given("warning"), field: given("field"), q: given("q") };
  const rows = given("rows") ?? (problems ? "problems" : "all");
  if (rows === "problems" && !filter.problem && !filter.warning) filter.problem = "any";
  if (rows === "skipped") filter.skipped = true;
  else if (filter.problem) filter.skipped = false;
  return filter;
}

function GroupLink({ group, kind, filter }: { group: Group; kind: "problem" | "warning"; filter: Filter }) {
  const current = filter[kind] === group.code && (filter.field ?? null) === group.field;
  return (
    <a
      href={href(path.value, { step: "check", [kind]: group.code, field: group.field })}
      title={group.examples[0]?.message}
      class={kind}
      aria-current={current ? "true" : undefined}
    >
      <span>{groupTitle(group)}</span> <span class="count">{number(group.count)}</span>
    </a>
  );
}

/** Repairs all rows with one kind of problem at once. */
function FixGroup({ draft, group, filter }: { draft: Draft; group: Group; filter: Filter }) {
  const asking = useSignal(false);
  const busy = useSignal(false);
  const suggested = useSignal(0);
  /** How many rows there are: fewer than in the group during a search. */
  const count = useSignal(group.count);
  const version = draft.version.value;
  useEffect(() => {
    const left = new AbortController();
    suggested.value = 0;
    count.value = group.count;
    draft.rows(filter, 0, 100, left.signal).then(({ rows, total }) => {
      suggested.value = rows.filter((row) => problemOf(row, group)?.suggestion).length;
      count.value = total;
    }, () => {});
    return () => left.abort();
  }, [JSON.stringify(filter), version]);

  async function fix(valueOf: (row: Row) => string | null | undefined) {
    if (busy.peek()) return;
    busy.value = true;
    try {
      const cells = [];
      for (const row of await readAll(draft, filter, count.peek())) {
        const column = problemOf(row, group)?.column;
        const value = valueOf(row);
        if (column && value !== null && value !== undefined && cells.length < MOST_EDITS) cells.push({ row, column, value });
      }
      if (await draft.edit(cells, `the repair of ${counted(cells.length, "row")}`)) notify(`${counted(cells.length, "row")} changed`);
      asking.value = false;
    } finally {
      busy.value = false;
    }
  }
  async function leaveOut() {
    if (busy.peek()) return;
    busy.value = true;
    try {
      await draft.skip(await readAll(draft, filter, count.peek()), true);
    } finally {
      busy.value = false;
    }
  }

  const hasColumn = draft.upload.value.columns.some(({ field }) => field === group.field?.replace(/^address\./, ""));
  const repeated = group.code === "duplicate_reference_id";
  return (
    <div class="fix">
      <strong>{groupTitle(group)}</strong>
      {suggested.value > 0 && (
        <button
          type="button"
          class="primary"
          aria-disabled={busy.value}
          onClick={() => fix((row) => problemOf(row, group)?.suggestion)}
        >
          Take the suggestions
        </button>
      )}
      {Object.hasOwn(FIELD_OF_WORDS, group.code) && (
        <a class="button" href={href(path.value, { step: "columns", at: "words" })}>Say what they stand for</a>
      )}
      {hasColumn && !repeated && (
        <button type="button" aria-disabled={busy.value} onClick={() => (asking.value = !busy.peek())}>One value for all…</button>
      )}
      <button type="button" aria-disabled={busy.value} onClick={leaveOut}>{repeated ? "Keep the first of each" : "Leave them out"}</button>
      {asking.value && (
        <Dialog title={groupTitle(group)} onClose={() => (asking.value = false)}>
          <Form submit={`Change ${counted(count.value, "row")}`} onSubmit={(form) => fix(() => String(form.get("value")))}>
            <label>
              {titleOf(group.field)}
              <input name="value" required autofocus />
            </label>
          </Form>
        </Dialog>
      )}
    </div>
  );
}

function problemOf(row: Row, group: Group) {
  return row.problems.find(({ code, field }) => code === group.code && field === group.field);
}

/** All rows of a filter. Says so if there are about so many that it takes a while. */
function readAll(draft: Draft, filter: Filter, count: number): Promise<Row[]> {
  const rows = Array.fromAsync(draft.pages(filter)).then((pages) => pages.flat());
  if (count > MOST_ROWS) notify(`Reading ${counted(count, "row")}…`, rows);
  return rows;
}

/** The rows with problems as CSV: their current cells, and what is wrong. */
async function downloadProblems(draft: Draft) {
  const { columns, name, invalid_rows } = draft.upload.peek();
  const lines = [[...columns.map(({ header }) => header), "Problems"]];
  for (const row of await readAll(draft, { problem: "any", skipped: false }, invalid_rows)) {
    lines.push([...columns.map((column) => textOf(row, column.number)), row.problems.map(({ message }) => message).join("; ")]);
  }
  const text = lines.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")).join("\r\n");
  save(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" }), `${name ?? "draft"} - to repair.csv`);
}
