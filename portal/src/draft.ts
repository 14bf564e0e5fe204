// A draft as the screens edit it: its rows, its repairs in order, and undo.
import { effect, type Signal, signal, untracked } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { call, type Credential, credential, Failure, newKey, type Schemas, send, whole } from "./api.ts";
import { isolated } from "./format.ts";
import { whetherSignedIn } from "./session.ts";

export type Upload = Schemas["Upload"];
export type Row = Schemas["UploadRow"];
export type Changes = Schemas["UploadChanges"];
export type Group = Schemas["ProblemGroup"];

/** The rows to show: with a problem or a warning of a code, of a field, containing a text. */
export interface Filter {
  problem?: string;
  warning?: string;
  field?: string;
  q?: string;
  skipped?: boolean;
}

/** The fields that a column can have. */
export const TITLES = {
  reference_id: "Reference",
  street_1: "Street",
  street_2: "Unit, second line",
  city: "City",
  state_or_province_code: "State or province",
  postal_code: "Postal code",
  country_code: "Country",
  building_type: "Building type",
  device_ids: "Devices",
  street_number: "House number",
  street_number_suffix: "Letter or fraction of the house number",
  street_predirectional: "Direction before the street",
  street_pretype: "Street type before the name",
  street_suffix: "Street type",
  street_postdirectional: "Direction after the street",
  household_income: "Household income",
  household_size: "Household size",
  owner_status: "Owner or renter",
  tax_filing: "Tax filing status",
  create_application: "Create an application",
  webhook_custom_fields: "Custom fields for the webhook",
} as const;

/** Newer results are reused, unless this is unchecked. */
export const REUSE_DAYS = 30;

/** The title of a field as the API names it, such as address.city. */
export function titleOf(field: string | null): string {
  if (!field) return "Whole row";
  const name = field.replace(/^address\./, "");
  return TITLES[name as keyof typeof TITLES] ?? name;
}

/** What is wrong, without the API's field names. */
export function messageOf({ field, code, column, message }: Row["problems"][number]): string {
  return code === "missing" && !column ? `${titleOf(field)}: not found in this row` : message;
}

/** The number of the column whose cells may contain the parts of an address that have no column, as in app.field_of_shared_cells. */
export function sharedColumn({ columns }: Upload): number | undefined {
  const given = new Set(columns.map(({ field }) => field));
  let shared = ["state_or_province_code", "city", "street_1"].find((field) => given.has(field));
  if (shared === "state_or_province_code" && given.has("postal_code")) shared = undefined;
  return columns.find(({ field }) => field === shared)?.number;
}

/** A file being uploaded. */
export interface Sent {
  content: Blob;
  name: string;
  type: string;
  /** Idempotency keys of requests without a response, by the requested sheet: sent again with its key, none creates a second draft. */
  keys: Map<string, string>;
}

/** The files of drafts, by their ids, for reading another sheet, until the page is left. */
const kept = new Map<string, Sent>();

/** Notifies the page that it has created or deleted a draft. */
const DRAFTS = "drafts";

/**
 * Calls back when there may be other drafts, until the returned function is called. Changes by others are only noticed when the page
 * becomes visible.
 */
export function onDrafts(run: () => void): () => void {
  for (const name of [DRAFTS, "focus"]) addEventListener(name, run);
  return () => {
    for (const name of [DRAFTS, "focus"]) removeEventListener(name, run);
  };
}

// The first bytes of workbooks, which are zip files, and of gzip.
const COMPRESSED = ["80,75", "31,139"];
// Bytes of a file that is compressed on the way.
const COMPRESSED_FROM = 64 * 1024;
const MAX_BYTES = 20 * 1024 * 1024;

interface Sending {
  /** Another organization may have signed in meanwhile. */
  as?: Credential | null;
  onSent?: (share: number) => void;
  signal?: AbortSignal;
}

/** Creates a draft from a file, and returns its id. */
export async function upload(file: Sent, sheet = "", { as = credential.peek(), onSent, signal }: Sending = {}): Promise<string> {
  const [content, encoding] = await packed(file.content);
  const key = file.keys.get(sheet) ?? newKey();
  file.keys.set(sheet, key);
  const response = await send("post", "/uploads", {
    query: { name: file.name.slice(0, 200), reuse_max_age_days: REUSE_DAYS, sheet },
    headers: { "content-type": file.type, "idempotency-key": key, ...encoding },
    file: content,
    as: as ?? undefined,
    onSent,
    signal,
  });
  const made: Upload = await whole(response.json(), signal);
  file.keys.delete(sheet);
  if (sheetsOf(made)) kept.set(made.id, file);
  dispatchEvent(new Event(DRAFTS));
  return made.id;
}

/**
 * What is sent of a file, with its encoding: a text is compressed for slow lines, unless it is too large to be accepted. Throws Failure if
 * the browser does not read the file: it is a folder, or was changed after it was chosen.
 */
async function packed(content: Blob): Promise<[Blob, Record<string, string>]> {
  try {
    const beginning = String(new Uint8Array(await content.slice(0, 2).arrayBuffer()));
    if (
      content.size < COMPRESSED_FROM || content.size > MAX_BYTES || COMPRESSED.includes(beginning) ||
      !("CompressionStream" in globalThis)
    ) return [content, {}];
    return [
      await new Response(content.stream().pipeThrough(new CompressionStream("gzip"))).blob(),
      { "content-encoding": "gzip" },
    ];
  } catch {
    throw new Failure(
      0,
      "This file cannot be read.",
      "unreadable_file",
      "If it has been changed since you chose it, choose it again. Folders are not accepted.",
    );
  }
}

/** The file that a draft was created from, if the page still has it. */
export function fileOf(upload: Upload): Sent | undefined {
  return kept.get(upload.id);
}

export async function drop(id: string, as = credential.peek()) {
  await call("delete", "/uploads/{upload_id}", { path: { upload_id: id }, as: as ?? undefined });
  kept.delete(id);
  drafts.delete(id);
  dispatchEvent(new Event(DRAFTS));
}

/** The sheet that was read and all sheets, for a workbook with several non-empty ones. */
export function sheetsOf({ notes }: Upload): { sheet: string; sheets: string[] } | undefined {
  const { sheet, sheets } = notes.find(({ code }) => code === "sheet_chosen") ?? {};
  return sheet !== undefined && sheets ? { sheet, sheets } : undefined;
}

/** The largest number of rows of a page. */
export const MOST_ROWS = 500;
/** The largest number of cells in one change. */
export const MOST_EDITS = 10_000;

/** The inverse of a change. */
interface Back {
  title: string;
  changes: Changes;
}

/** Changes that are sent together, with their inverses. */
interface Step {
  changes: Changes;
  back: Back[];
}

/** Drafts that have been opened, by their ids, until the page is left: unsaved changes outlive the screen. */
const drafts = new Map<string, Draft>();

/** Marks fields for a cell. */
export const CELL = { "data-cell": "" };

// The browser asks before the tab is closed or reloaded with unsaved changes, on any screen; what is being typed into a cell is one.
addEventListener("beforeunload", (event) => {
  if (document.activeElement?.matches("[data-cell]")) (document.activeElement as HTMLElement).blur();
  if ([...drafts.values()].some((draft) => draft.hasUnsaved())) event.preventDefault();
});

export class Draft {
  /** With the changes that are still to be confirmed: what is done next starts from them. */
  readonly upload: Signal<Upload>;
  /** Changes whenever the rows have been validated again. */
  readonly version = signal(0);
  /** Changes whenever there are new changes of rows, for `current`. */
  readonly changed = signal(0);
  readonly error = signal<Error | undefined>(undefined);
  readonly saving = signal(0);
  readonly undoable = signal<Back[]>([]);
  /** Changes that could not be sent, in order. */
  readonly unsent = signal<Step[]>([]);
  private last: Promise<boolean> = Promise.resolve(true);
  /** The last step that is still to be sent. */
  private next: Step | undefined;
  /** Steps without a response, in order. */
  private underWay: Step[] = [];
  /** Changes wait for their organization to sign in again. */
  private readonly isSignedIn = whetherSignedIn();

  /** `confirmed` is as in the last response. */
  constructor(private confirmed: Upload) {
    this.upload = signal(confirmed);
  }

  /** The draft of a new upload. */
  static of(upload: Upload): Draft {
    const known = drafts.get(upload.id);
    if (known?.hasUnsaved()) return known;
    const draft = known ?? new Draft(upload);
    draft.confirm(upload);
    draft.error.value = undefined;
    drafts.set(upload.id, draft);
    return draft;
  }

  hasUnsaved(): boolean {
    return this.saving.peek() > 0 || this.unsent.peek().length > 0;
  }

  get path() {
    return { upload_id: this.confirmed.id };
  }

  private confirm(upload = this.confirmed) {
    this.confirmed = upload;
    this.upload.value = this.unconfirmed().reduce(withChanges, upload);
  }

  private unconfirmed(): Changes[] {
    return [...this.unsent.peek(), ...this.underWay].map(({ changes }) => changes);
  }

  /** Rows with the changes that are still to be confirmed. */
  current(rows: Row[]): Row[] {
    const edits = new Map<number, Row["edits"]>();
    const skipped = new Map<number, boolean>();
    for (const changes of this.unconfirmed()) {
      for (const { position, column, value } of changes.edits ?? []) {
        edits.set(position, { ...edits.get(position), [column]: value } as Row["edits"]);
      }
      // The screens choose rows by their positions only.
      for (const position of changes.skip as number[] ?? []) skipped.set(position, true);
      for (const position of changes.unskip as number[] ?? []) skipped.set(position, false);
    }
    return rows.map((row) => {
      const { position } = row;
      if (!edits.has(position) && !skipped.has(position)) return row;
      return { ...row, edits: withoutNulls({ ...row.edits, ...edits.get(position) }), skipped: skipped.get(position) ?? row.skipped };
    });
  }

  /** Sends changes after the previous ones; `back` reverts them. Returns whether they were accepted. */
  change(changes: Changes, back?: Back): Promise<boolean> {
    this.resend();
    return this.enqueue({ changes, back: back ? [back] : [] });
  }

  /** Each step validates all rows again: cells that are edited during one are sent together in the next. */
  private enqueue(step: Step): Promise<boolean> {
    const [waiting, added] = [editsAlone(this.next), editsAlone(step)];
    if (this.next && waiting && added && waiting.length + added.length <= MOST_EDITS) {
      this.next.changes = { edits: [...waiting, ...added] };
      this.next.back.push(...step.back);
    } else {
      this.next = step;
      this.underWay.push(step);
      this.saving.value++;
      this.last = this.last.then(() => this.save(step));
    }
    this.confirm();
    this.changed.value++;
    return this.last;
  }

  private async save(step: Step): Promise<boolean> {
    if (this.next === step) this.next = undefined;
    try {
      // A later change never overtakes one that failed to arrive, which would overwrite it when resent.
      if (this.unsent.peek().length > 0) throw this.error.peek();
      if (!this.isSignedIn()) throw new Failure(401, "You signed out before this was saved.");
      const answer = await call("patch", "/uploads/{upload_id}", { path: this.path, body: step.changes });
      this.underWay.shift();
      this.confirm(answer);
      this.error.value = undefined;
      this.undoable.value = [...this.undoable.peek(), ...step.back];
      return true;
    } catch (failure) {
      this.underWay.shift();
      this.error.value = failure as Error;
      // After signing in again, because their key has ended, users continue from here.
      const mayPass = failure instanceof Failure && (failure.isPassing || failure.status === 401);
      if (mayPass) this.unsent.value = [...this.unsent.peek(), step];
      this.confirm();
      return false;
    } finally {
      this.version.value++;
      this.saving.value--;
      const error = this.error.peek();
      if (error instanceof Failure && error.status === 409) this.refresh();
    }
  }

  /** Shows changes by others, including other tabs; while own changes are in progress, their responses do that. */
  async refresh() {
    if (this.hasUnsaved()) return;
    const before = this.upload.peek();
    const fresh = await call("get", "/uploads/{upload_id}", { path: this.path });
    if (this.upload.peek() !== before || (fresh.updated_at === before.updated_at && fresh.job_id === before.job_id)) return;
    this.confirm(fresh);
    this.version.value++;
  }

  /** Resends what failed to arrive. */
  resend() {
    const unsent = this.unsent.peek();
    this.unsent.value = [];
    for (const step of unsent) this.enqueue(step);
  }

  /** Waits for the changes in progress, and resends failed ones. Returns whether all of them were accepted. */
  async settle(): Promise<boolean> {
    const before = this.error.peek();
    this.resend();
    await this.last;
    const error = this.error.peek();
    return this.unsent.peek().length === 0 && (error === undefined || error === before);
  }

  /** Undoes the last change, whether or not it has been saved yet, and returns its title. */
  async undo(): Promise<string | undefined> {
    if (!await this.settle()) return;
    const before = this.undoable.peek();
    const step = before.at(-1);
    if (!step) return;
    this.undoable.value = before.slice(0, -1);
    if (await this.change(step.changes)) return step.title;
    // Refused, rather than still to be sent.
    if (this.unsent.peek().length === 0) this.undoable.value = [...this.undoable.peek(), step];
  }

  edit(cells: { row: Row; column: number; value: string }[], title = "the edit"): Promise<boolean> {
    const changed = cells.filter(({ row, column, value }) => textOf(row, column) !== value);
    if (changed.length === 0) return Promise.resolve(true);
    return this.change(
      { edits: changed.map(({ row, column, value }) => ({ position: row.position, column, value })) },
      {
        title,
        changes: { edits: changed.map(({ row, column }) => ({ position: row.position, column, value: row.edits[column] ?? null })) },
      },
    );
  }

  skip(rows: Row[], skip: boolean): Promise<boolean> {
    const positions = rows.filter((row) => row.skipped !== skip).map((row) => row.position);
    if (positions.length === 0) return Promise.resolve(true);
    const [leave, take] = [{ skip: positions }, { unskip: positions }];
    return this.change(skip ? leave : take, { title: skip ? "leaving rows out" : "taking rows back", changes: skip ? take : leave });
  }

  map(field: string, number: number | null): Promise<boolean> {
    const { columns } = this.upload.peek();
    const before = columns.find((column) => column.field === field)?.number ?? null;
    // The former field of the column, which the new one replaces.
    const replaced = columns.find((column) => column.number === number)?.field;
    return this.change({ columns: { [field]: number } }, {
      title: "the column",
      changes: { columns: { [field]: before, ...(replaced && { [replaced]: number }) } },
    });
  }

  setDefault(field: string, value: unknown): Promise<boolean> {
    const before = this.upload.peek().defaults[field] ?? null;
    return this.change({ defaults: { [field]: value } }, { title: "the default", changes: { defaults: { [field]: before } } });
  }

  mapValue(field: string, text: string, value: unknown): Promise<boolean> {
    const before = (this.upload.peek().value_maps[field] as Record<string, unknown> | undefined)?.[text] ?? null;
    return this.change({ value_maps: { [field]: { [text]: value } } }, {
      title: `what ${isolated(text)} stands for`,
      changes: { value_maps: { [field]: { [text]: before } } },
    });
  }

  async rows(filter: Filter, offset: number, limit: number, signal?: AbortSignal) {
    const page = await call("get", "/uploads/{upload_id}/rows", { path: this.path, query: { ...filter, offset, limit }, signal });
    return { ...page, rows: this.current(page.rows) };
  }

  /** All rows of a filter, page by page. */
  async *pages(filter: Filter, signal?: AbortSignal): AsyncGenerator<Row[]> {
    let cursor: string | undefined;
    while (true) {
      const query = { ...filter, limit: MOST_ROWS, cursor };
      const page = await call("get", "/uploads/{upload_id}/rows", { path: this.path, query, signal });
      yield this.current(page.rows);
      if (!page.next_cursor) return;
      cursor = page.next_cursor;
    }
  }
}

/** Calls `take` when there are changes of rows: at once, not after the next frame, so that keys that follow quickly start from them. */
export function useChanges(draft: Draft, take: () => void) {
  const latest = useRef(take);
  latest.current = take;
  useEffect(() =>
    effect(() => {
      if (draft.changed.value > 0) untracked(() => latest.current());
    }), [draft]);
}

/** The choices of an upload after changes; its rows are not validated again. */
function withChanges(upload: Upload, changes: Changes): Upload {
  const maps: Record<string, Record<string, unknown> | undefined> = { ...upload.value_maps };
  for (const [field, map] of Object.entries(changes.value_maps ?? {})) maps[field] = withoutNulls({ ...maps[field], ...map });
  const numbers = changes.columns ?? {};
  const columns = upload.columns.map((column) => {
    const [given] = Object.entries(numbers).find(([, number]) => number === column.number) ?? [];
    const isTaken = column.field !== null && column.field in numbers;
    return given || isTaken ? { ...column, field: (given ?? null) as typeof column.field } : column;
  });
  return {
    ...upload,
    columns,
    defaults: withoutNulls({ ...upload.defaults, ...changes.defaults }),
    value_maps: maps as Upload["value_maps"],
  };
}

function withoutNulls<T extends Record<string, unknown>>(values: T): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null)) as T;
}

/** The edits of a step that has nothing else. */
function editsAlone(step: Step | undefined): Changes["edits"] {
  return step && Object.keys(step.changes).every((name) => name === "edits") ? step.changes.edits : undefined;
}

/** The current text of a cell, with its edit. */
export function textOf(row: Row, column: number): string {
  const value = row.edits[column] ?? row.cells[column - 1];
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The cells of a text copied from a spreadsheet: a line per row, tabs between cells; cells with tabs, quotes or line breaks are quoted. */
export function cellsOf(text: string): string[][] {
  const rows: string[][] = [[]];
  const lines = text.replaceAll("\r\n", "\n").replace(/\n$/, "");
  for (const [, quoted, plain, end] of lines.matchAll(/(?:"((?:[^"]|"")*)"(?=[\t\n]|$)|([^\t\n]*))([\t\n]|$)/g)) {
    rows.at(-1)!.push(quoted?.replaceAll('""', '"') ?? plain!);
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  return rows;
}

/** The text from which a spreadsheet pastes cells. */
export function textOfCells(rows: string[][]): string {
  const quoted = (text: string) => /[\t\n\r"]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  return rows.map((texts) => texts.map(quoted).join("\t")).join("\n");
}
