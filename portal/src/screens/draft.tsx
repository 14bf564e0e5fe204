// A draft between its upload and its start: its columns, what is wrong with its rows, what a start would cost.
import type { ComponentChildren } from "preact";
import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { call, newKey } from "../api.ts";
import { Draft, drop, REUSE_DAYS } from "../draft.ts";
import { counted, duration, isolated, number, readNumber } from "../format.ts";
import { mayPass, retried, RETRY_SECONDS, useLoad } from "../load.ts";
import { announce, notify, teller } from "../parts/announce.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Form, NumberField } from "../parts/form.tsx";
import { NamedHeading, NotYet, Problem, Time } from "../parts/misc.tsx";
import { href, path, query, wayFromHere } from "../router.ts";
import { can } from "../session.ts";
import { Check } from "./draft-check.tsx";
import { Columns } from "./draft-columns.tsx";
import { Sheet } from "./draft-sheet.tsx";

export function DraftScreen({ id }: { id: string }) {
  const draft = useLoad(async (signal) => Draft.of(await call("get", "/uploads/{upload_id}", { path: { upload_id: id }, signal })), [id]);
  if (!draft.data.value) return <NotYet title="Draft" loaded={draft} />;
  return <Shown draft={draft.data.value} />;
}

function Shown({ draft }: { draft: Draft }) {
  const upload = draft.upload.value;
  const deleting = useSignal(false);
  const missing = upload.missing_fields.length;
  const unclear = missing > 0 || upload.columns.some(({ how }) => how === "ambiguous");
  // It stays once the columns are clear: a choice leads to no other step.
  const [firstStep] = useState(unclear ? "columns" : "check");
  const step = query.value.get("step") ?? firstStep;
  useEffect(() => {
    announce(`${counted(upload.valid_rows, "row is", "rows are")} ready, ${number(upload.invalid_rows)} to repair`);
  }, [upload.valid_rows, upload.invalid_rows]);
  useLayoutEffect(() => {
    function onKey(event: KeyboardEvent) {
      const typing = (event.target as HTMLElement).closest("input, textarea, select");
      if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" && !typing) {
        event.preventDefault();
        undo();
      }
    }
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [draft]);

  useEffect(() => {
    const resend = () => draft.resend();
    const refresh = () => draft.refresh().catch(() => {});
    resend();
    addEventListener("online", resend);
    addEventListener("focus", refresh);
    return () => {
      removeEventListener("online", resend);
      removeEventListener("focus", refresh);
    };
  }, [draft]);

  const error = draft.error.value;
  const unsent = draft.unsent.value;
  const isRetried = unsent.length > 0 && mayPass(error);
  useEffect(() => {
    if (!isRetried) return;
    const timer = setTimeout(() => draft.resend(), RETRY_SECONDS * 1000);
    return () => clearTimeout(timer);
  }, [isRetried, unsent]);

  const mayChange = can("jobs:write");
  const undoable = draft.undoable.value.at(-1);
  async function undo() {
    const tell = teller();
    const title = await draft.undo();
    if (title) tell(`Undone: ${title}`);
  }
  async function remove() {
    const go = wayFromHere();
    await drop(upload.id);
    notify("The draft is deleted");
    go(["upload"]);
  }
  if (upload.job_id) {
    return (
      <section class="empty">
        <h1>{isolated(upload.name ?? "This draft")} was started</h1>
        <p>It changes no more.</p>
        <a class="button primary" href={href(["batches", upload.job_id])}>See the batch</a>
      </section>
    );
  }
  return (
    <>
      <div class="heading">
        <div>
          <NamedHeading name={upload.name ?? "Draft"} />
          <p class="soft">
            {counted(upload.total_rows, "row")}, uploaded <Time at={upload.created_at} />, kept until <Time at={upload.expires_at} />
          </p>
        </div>
        {mayChange && (
          <>
            {draft.saving.value > 0 || unsent.length === 0
              ? <span class="soft">{draft.saving.value > 0 ? "Saving…" : "Saved"}</span>
              : <span class="alert">Not saved</span>}
            <button
              type="button"
              disabled={!undoable}
              aria-keyshortcuts="Control+Z"
              title={undoable && `Takes back ${undoable.title}`}
              onClick={undo}
            >
              Undo
            </button>
          </>
        )}
        <CopyAs path={`uploads/${upload.id}`} sql={`select * from api.upload_rows where upload_id = '${upload.id}' order by position;`} />
        {mayChange && <button type="button" class="quiet" onClick={() => (deleting.value = true)}>Delete…</button>}
      </div>
      <nav class="tabs steps" aria-label="Steps">
        <Step name="columns" current={step}>
          1. Columns {unclear && (
            <span class="count alert">
              {missing || "unclear"} {missing > 0 && <span class="unseen">missing</span>}
            </span>
          )}
        </Step>
        <Step name="check" current={step}>
          2. Check {upload.invalid_rows > 0 && (
            <span class="count alert">
              {number(upload.invalid_rows)} <span class="unseen">to repair</span>
            </span>
          )}
        </Step>
      </nav>
      {!mayChange && <p class="banner">You may see this draft, but neither change nor start it.</p>}
      <Problem error={error && isRetried ? retried(error) : error} onRetry={unsent.length > 0 ? () => draft.resend() : undefined} />
      {upload.notes.map((note) => note.code !== "sheet_chosen" && <p key={note.code} class="banner">{note.message}</p>)}
      <Sheet draft={draft} choose={step === "columns"} />
      {step === "columns" ? <Columns draft={draft} /> : <Check draft={draft} />}
      <Start draft={draft} />
      {deleting.value && (
        <Dialog title={`Delete ${isolated(upload.name ?? "the draft")}?`} onClose={() => (deleting.value = false)}>
          <Form submit="Delete the draft" onSubmit={remove} onCancel={() => (deleting.value = false)} danger>
            <p>Its rows and repairs are deleted with it. Your file stays where it is.</p>
          </Form>
        </Dialog>
      )}
    </>
  );
}

function Step({ name, current, children }: { name: string; current: string; children: ComponentChildren }) {
  return (
    <a href={href(path.value, { step: name })} aria-current={name === current ? "step" : undefined}>
      {children}
    </a>
  );
}

/** What a start costs, and the button to start. */
function Start({ draft }: { draft: Draft }) {
  const upload = draft.upload.value;
  const ready = upload.valid_rows;
  const reuse = useSignal(upload.reuse_results !== null);
  if (!can("jobs:write")) return null;

  const days = upload.reuse_results?.max_age_days ?? REUSE_DAYS;
  const reused = () => ({ reuse_results: reuse.value ? { max_age_days: days } : null });
  async function start(form: FormData) {
    const go = wayFromHere();
    if (!await draft.settle()) throw new Error("Nothing was started, because a change has not been saved.");
    const name = String(form.get("name") ?? "").trim();
    const most = readNumber(String(form.get("max_lookups")));
    const sample = Number(form.get("sample"));
    const created = await call("post", "/uploads/{upload_id}/start", {
      path: draft.path,
      headers: { "idempotency-key": newKey() },
      body: { skip_invalid: true, ...(name && { name }), ...(most && { max_lookups: most }), ...(sample && { sample }), ...reused() },
    }).catch((failure) => {
      // Somebody else may have started it.
      if (failure.status === 409) draft.refresh();
      throw failure;
    });
    if (!("job_id" in created)) return;
    notify("The batch is started");
    go(["batches", created.job_id]);
  }
  const { lookups, known_already, seconds } = upload.estimate;
  return (
    <section class="card start" aria-label="Start">
      <p>
        <strong>{counted(ready, "site")} ready</strong>
        {upload.invalid_rows > 0 && <>, {counted(upload.invalid_rows, "row")} with problems will be left out</>}
        {upload.skipped_rows > 0 && <>, {number(upload.skipped_rows)} left out by you</>}. {ready > 0 && (
          <span class="soft">
            {counted(lookups, "lookup")}
            {known_already > 0 && `, ${number(known_already)} already known`}
            {seconds !== null && `, about ${duration(seconds)}`}
          </span>
        )}
      </p>
      <Form
        submit={`Start ${counted(ready, "site")}`}
        disabled={ready === 0}
        onSubmit={start}
        others={ready > SAMPLE && <button type="submit" name="sample" value={SAMPLE}>Try {SAMPLE} first</button>}
      >
        {/* Lookups cost money: only a button starts them, not Enter, which ends what is typed into a cell above. */}
        <div class="fields" onKeyDown={(event) => event.key === "Enter" && event.preventDefault()}>
          <label>
            Name of the batch
            <input name="name" maxLength={200} defaultValue={upload.name ?? ""} />
          </label>
          <label>
            Stop after this many lookups
            <NumberField name="max_lookups" min={1} max={1_000_000} placeholder="no limit" />
          </label>
          <label class="check">
            <input
              type="checkbox"
              checked={reuse.value}
              onChange={(event) => {
                reuse.value = event.currentTarget.checked;
                draft.change(reused());
              }}
            />
            Reuse results up to {days} days old instead of looking up again
          </label>
        </div>
      </Form>
    </section>
  );
}

const SAMPLE = 20;
