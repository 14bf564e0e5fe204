// For operators, who sign in with the service role key.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { counted, decimal, exactNumber, number, readNumber, seconds, shortTime, titled } from "../format.ts";
import { mayPass, useLoad } from "../load.ts";
import { notify } from "../parts/announce.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { Command, useShown } from "../parts/form.tsx";
import { Menu } from "../parts/menu.tsx";
import { Loading, Problem, Time } from "../parts/misc.tsx";

type Operations = Schemas["Operations"];
type Queue = Schemas["QueueHealth"];

const POLL_SECONDS = 5;

export function OperationsScreen() {
  const operations = useLoad((signal) => call("get", "/operations", { signal }), []);
  const failure = useSignal<Error | undefined>(undefined);
  /** Repeats the command that failed, if that may help. */
  const again = useSignal<(() => void) | undefined>(undefined);
  useEffect(() => {
    const timer = setInterval(operations.reload, POLL_SECONDS * 1000);
    return () => clearInterval(timer);
  }, []);

  async function change(run: () => Promise<Operations>, done: string) {
    failure.value = again.value = undefined;
    try {
      const answer = await run();
      operations.set(() => answer);
      notify(done);
      return true;
    } catch (error) {
      failure.value = error as Error;
      return false;
    }
  }
  async function command(run: () => Promise<Operations>, done: string) {
    await change(run, done);
    if (mayPass(failure.peek())) again.value = () => command(run, done);
  }
  const pause = (minutes: number) => ({
    title: `for ${counted(minutes, "minute")}`,
    run: () => command(() => call("post", "/operations/pause", { query: { seconds: minutes * 60 } }), "Lookups are paused"),
  });

  const data = operations.data.value;
  return (
    <>
      <div class="heading">
        <h1>Operations</h1>
        <CopyAs path="operations" sql="select * from api.queue_health; select * from api.diagnose();" />
        <Menu title="Pause lookups…" choices={[pause(1), pause(5), pause(15)]} />
        <Command run={() => command(() => call("post", "/operations/resume"), "Lookups may start")}>Resume</Command>
      </div>
      <Problem error={failure.value} onRetry={again.value} />
      <Problem error={operations.error.value} onRetry={operations.retry} />
      {!data && !operations.error.value && <Loading />}
      {data && (
        <>
          <Banner queue={data.queue} />
          <Figures queue={data.queue} />
          <Checks checks={data.checks} />
          <Blocking queue={data.queue} />
          <Settings
            settings={data.settings}
            onChange={(name, value) =>
              change(() => call("patch", "/operations/settings", { body: { [name]: value } }), `${name} is changed`)}
          />
        </>
      )}
    </>
  );
}

function Banner({ queue }: { queue: Queue }) {
  const until = queue.upstream_closed_until && `, until ${seconds(queue.upstream_closed_until)} at least`;
  if (queue.upstream_unavailable_since) {
    return (
      <p class="banner">
        The circuit breaker has been open since {shortTime(queue.upstream_unavailable_since)}, after{" "}
        {counted(queue.upstream_consecutive_failures, "failure")} in a row{until}.
      </p>
    );
  }
  if (until) return <p class="banner">No lookup starts{until}.</p>;
  if (queue.workers === 0 && queue.ready_items > 0) return <p class="banner">Items are ready, and no worker runs.</p>;
  return null;
}

function Figures({ queue }: { queue: Queue }) {
  const figures: [string, string, string][] = [
    [
      number(queue.ready_items),
      "ready",
      `of ${counted(queue.open_jobs, "open batch", "open batches")}, ${counted(queue.ready_organizations, "organization")} to serve`,
    ],
    [
      number(queue.items_waiting_for_retry),
      "waiting for a retry",
      queue.held_items ? `${number(queue.held_items)} more wait for a limit, or to be continued` : "",
    ],
    [
      number(queue.items_in_flight),
      "in flight",
      `of ${number(queue.max_in_flight)} at most${queue.concurrency_limit === null ? "" : `, ${number(queue.concurrency_limit)} for now`}`,
    ],
    [queue.lookups_per_second === null ? "no limit" : decimal(queue.lookups_per_second), "lookups a second at most", ""],
    [
      number(queue.workers),
      queue.workers === 1 ? "worker" : "workers",
      queue.expired_leases ? `${counted(queue.expired_leases, "item")} of silent ones` : "",
    ],
    [queue.oldest_open_job?.replace(/\.\d+$/, "") ?? "none", "age of the oldest open batch", ""],
    [
      queue.upstream_base_latency === null ? "unknown" : `${number(Math.round(queue.upstream_base_latency * 1000))} ms`,
      "per lookup, without load",
      "",
    ],
  ];
  return (
    <div class="figures">
      {figures.map(([value, caption, detail]) => (
        <div key={caption} class="card figure">
          <strong>{value}</strong>
          <span>{caption}</span>
          {detail && <small>{detail}</small>}
        </div>
      ))}
      <div class="card figure">
        <strong>{queue.maintenance_ran_at ? <Time at={queue.maintenance_ran_at} /> : "never"}</strong>
        <span>maintenance ran</span>
      </div>
    </div>
  );
}

const STATES = { problem: "Problem", warning: "Warning", ok: "Well" };

/** What is wrong and what to do about it; what is fine is a click away. */
function Checks({ checks }: { checks: Schemas["Check"][] }) {
  const wrong = checks.filter(({ state }) => state !== "ok");
  const well = checks.filter(({ state }) => state === "ok");
  const table = (rows: typeof checks) => (
    <table class="rows checks">
      <thead>
        <tr>
          <th>Check</th>
          <th>State</th>
          <th>Finding</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ name, state, finding, advice }) => (
          <tr key={name + finding}>
            <td>
              <code>{name}</code>
            </td>
            <td data-label="State">
              <span class={state === "ok" ? undefined : "alert"}>{titled(STATES, state)}</span>
            </td>
            <td>
              {finding}
              {advice && <small>{advice}</small>}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
  return (
    <section aria-label="Checks">
      <h2>{wrong.length === 0 ? "Nothing is wrong" : counted(wrong.length, "finding")}</h2>
      {wrong.length > 0 && table(wrong)}
      <details>
        <summary>{counted(well.length, "check")} found no problem: webhooks, invariants, vacuum…</summary>
        {table(well)}
      </details>
    </section>
  );
}

function Blocking({ queue }: { queue: Queue }) {
  if (queue.blocking_transactions.length === 0) return null;
  return (
    <section class="card">
      <h2>Transactions that hold the queue</h2>
      <table class="rows">
        <thead>
          <tr>
            <th>Process</th>
            <th>Since</th>
            <th>Who</th>
            <th>Query</th>
          </tr>
        </thead>
        <tbody>
          {queue.blocking_transactions.map((transaction) => (
            <tr key={String(transaction.pid)}>
              <td>{String(transaction.pid ?? "")}</td>
              <td>{transaction.since ? <Time at={String(transaction.since)} /> : ""}</td>
              <td>
                {String(transaction.user)}
                <small>{String(transaction.application)}</small>
              </td>
              <td>
                <code>{String(transaction.query)}</code>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

type Value = Schemas["Setting"]["value"];

interface SettingsProperties {
  settings: Schemas["Setting"][];
  /** Returns whether it was accepted. */
  onChange: (name: string, value: Value) => Promise<boolean>;
}

function Settings({ settings, onChange }: SettingsProperties) {
  /** Rejected values stay in their fields, which are marked; a box shows what is set. */
  async function change(field: HTMLInputElement, name: string, value: Value) {
    const isRejected = !await onChange(name, value);
    if (field.type !== "checkbox") field.setAttribute("aria-invalid", String(isRejected));
    else if (isRejected) field.checked = !value;
  }
  return (
    <section aria-label="Settings">
      <h2>Settings</h2>
      <table class="rows settings">
        <thead>
          <tr>
            <th>Setting</th>
            <th>Value</th>
          </tr>
        </thead>
        <tbody>
          {settings.map(({ name, value, description }) => (
            <tr key={name}>
              <td>
                <code>{name}</code>
                <small>{description}</small>
              </td>
              <td>
                {typeof value === "boolean"
                  ? (
                    <input
                      type="checkbox"
                      aria-label={name}
                      checked={value}
                      onChange={(event) => change(event.currentTarget, name, event.currentTarget.checked)}
                    />
                  )
                  : <Field name={name} value={value} onChange={(field, value) => change(field, name, value)} />}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

interface FieldProperties {
  name: string;
  value: number | string | null;
  onChange: (field: HTMLInputElement, value: Value) => void;
}

function Field({ name, value, onChange }: FieldProperties) {
  const text = typeof value === "number" ? exactNumber(value) : value ?? "";
  const input = useShown(text);
  return (
    <input
      ref={input}
      aria-label={name}
      inputMode="decimal"
      defaultValue={text}
      placeholder="none"
      onChange={(event) => onChange(event.currentTarget, read(event.currentTarget.value))}
    />
  );
}

/** The value of a setting as typed. */
function read(text: string): Value {
  const trimmed = text.trim();
  if (trimmed === "" || trimmed === "none") return null;
  return readNumber(trimmed) ?? trimmed;
}
