// A batch that waits: for its user, after its sample or at its limit of lookups, or for the next month's lookups.
import { call, type Schemas } from "../api.ts";
import { counted, number, readNumber, shortTime, titled } from "../format.ts";
import { notify } from "../parts/announce.tsx";
import { isOpen } from "../parts/bar.tsx";
import { Form, NumberField } from "../parts/form.tsx";
import { can } from "../session.ts";

/** Such as "waits for you"; empty if a batch does not wait, or has ended since it was read. */
export function waitOf(job: Schemas["Job"]): string {
  if (!isOpen(job)) return "";
  if (job.waiting_until) return `waits until ${shortTime(job.waiting_until)}`;
  return job.waiting_for ? "waits for you" : "";
}

export function Waiting({ job, reload }: { job: Schemas["JobDetails"]; reload: () => void }) {
  if (!job.waiting_for) return null;
  const rest = job.item_counts.pending;
  if (job.waiting_until) {
    return (
      <section class="banner" aria-label="Waiting for the next month">
        <p>
          <strong>The organization has used up this month's lookups.</strong> {counted(rest, "site waits", "sites wait")} until{" "}
          {shortTime(job.waiting_until)}, or until an operator allows more.
        </p>
      </section>
    );
  }

  async function go(most?: number) {
    await call("post", "/batch-lookups/{job_id}/continue", { path: { job_id: job.id }, query: { max_lookups: most } });
    notify("The batch continues");
    reload();
  }
  return (
    <section class="banner" aria-label="Waiting for you">
      {job.waiting_for === "continue"
        ? (
          <p>
            <strong>The sample is done.</strong> Review its sites below; {counted(rest, "other site waits", "other sites wait")} for you.
          </p>
        )
        : job.waiting_for === "lookup_limit"
        ? (
          <p>
            <strong>The lookup limit is reached</strong> after {number(job.lookups)}; {counted(rest, "site waits", "sites wait")}.
          </p>
        )
        : <p>{counted(rest, "site waits", "sites wait")} ({titled({}, job.waiting_for)}).</p>}
      {can("jobs:write") && job.waiting_for === "continue" && <Form submit={`Look up the other ${number(rest)}`} onSubmit={() => go()} />}
      {can("jobs:write") && job.waiting_for === "lookup_limit" && (
        <Form
          submit="Continue"
          onSubmit={(form) => go(readNumber(String(form.get("max_lookups")))!)}
        >
          <label>
            New limit of the batch
            <NumberField name="max_lookups" required min={job.lookups + 1} max={1_000_000} value={job.lookups + rest} />
          </label>
        </Form>
      )}
    </section>
  );
}
