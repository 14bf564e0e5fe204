import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, Failure, type Schemas, serviceTime } from "../api.ts";
import { counted, exactTime, number, titled } from "../format.ts";
import { type Loaded, useLoad } from "../load.ts";
import { notify } from "../parts/announce.tsx";
import { copy, CopyAs, literal } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Command, Form } from "../parts/form.tsx";
import { List, PAGE, usePages } from "../parts/list.tsx";
import { Loading, Problem, Time } from "../parts/misc.tsx";
import { secretShower } from "../parts/secret.tsx";
import { close, href, query } from "../router.ts";
import { can } from "../session.ts";

type Config = Schemas["WebhookConfig"];
type Status = Schemas["WebhookDeliveryStatus"];

const EVENTS: Record<string, string> = {
  "lookup.completed": "A site has been looked up",
  "lookup.failed": "The lookup of a site failed permanently",
  "batch.completed": "A batch has ended",
  "batch.failed": "All sites of a batch failed",
  "batch.cancelled": "A batch has been cancelled",
} satisfies Record<Schemas["WebhookEvent"], string>;
const DISABLED: Record<Schemas["WebhookDisabledReason"], string> = {
  gone: "the endpoint answered 410 Gone",
  failing: "no delivery succeeded for five days",
} as Record<Schemas["WebhookDisabledReason"], string>;

const NOT_DELIVERED: Record<string, string> = {
  connection: "no connection, or it was lost",
  disabled: "webhooks were disabled",
  dns: "the host name was not found",
  invalid_response: "the response was not HTTP",
  refused_address: "the host is unknown, or in a private network",
  timeout: "no answer within 15 seconds",
  tls: "the certificate or its name is not trusted, or it does not speak TLS",
};

// The result of an attempt: a status, or why there was no response.
function outcome(status: number | null, error: string | null) {
  return status ? `HTTP ${status}` : NOT_DELIVERED[error ?? ""] ?? error ?? "";
}

export function Webhooks() {
  const config = useLoad((signal) => call("get", "/webhook-config", { signal }), []);
  const tests = useSignal(0);
  const data = config.data.value;
  return (
    <>
      <div class="heading">
        <h1>Webhooks</h1>
        <CopyAs path="webhook-config" sql="select api.get_webhook_config();" />
      </div>
      <Problem error={config.error.value} onRetry={config.retry} />
      {!data && !config.error.value && <Loading />}
      {data && <Settings config={data} set={config.set} onTest={() => tests.value++} />}
      {data && <Deliveries version={tests.value} />}
    </>
  );
}

interface SettingsProperties {
  config: Config;
  set: Loaded<Config>["set"];
  onTest: () => void;
}

function Settings({ config, set, onTest }: SettingsProperties) {
  const asking = useSignal(false);
  const test = useSignal<Test | null>(null);
  const failure = useSignal<Error | undefined>(undefined);
  const mayWrite = can("webhooks:write");

  async function save(data: FormData, form: HTMLFormElement) {
    const showSecret = secretShower();
    const fields = String(data.get("field_names")).split(/[\s,]+/).filter(Boolean);
    const answer = await call("put", "/webhook-config", {
      body: changed(config, {
        url: String(data.get("url")) || null,
        events: data.getAll("events") as Schemas["WebhookEvent"][],
        field_names: fields.length ? fields : null,
        bundle_items: data.has("bundle"),
        enabled: data.has("enabled"),
      }),
    });
    // What has been typed meanwhile is not saved, and stays.
    if (textOf(new FormData(form)) === textOf(data)) form.reset();
    show(answer, showSecret);
    notify("Saved");
  }
  function show({ signing_secret: secret, ...config }: Schemas["WebhookConfigWithSecret"], showSecret: ReturnType<typeof secretShower>) {
    set(() => config);
    if (!secret) return;
    showSecret({
      title: "The signing secret",
      value: secret,
      children: "It is shown only this once. Your endpoint uses it to verify that a delivery is ours.",
      more: <Receiver secret={secret} />,
    });
  }
  async function send() {
    if (test.peek()?.outcome === null) return;
    failure.value = undefined;
    const url = config.url!;
    test.value = { url, outcome: null };
    try {
      test.value = { url, outcome: await call("post", "/webhook-config/test") };
    } catch (error) {
      failure.value = error as Error;
      test.value = null;
    }
    onTest();
  }
  async function rotate() {
    const showSecret = secretShower();
    const answer = await call("post", "/webhook-config/rotate-secret", { body: {} });
    asking.value = false;
    show(answer, showSecret);
  }

  return (
    <section class="card" aria-label="Endpoint">
      {config.disabled_at && (
        <p class="banner">
          Webhooks have been disabled since {exactTime(config.disabled_at)}
          {config.disabled_reason && DISABLED[config.disabled_reason] && `, because ${DISABLED[config.disabled_reason]}`}. Events are kept
          meanwhile.
        </p>
      )}
      <Form
        submit="Save"
        disabled={!mayWrite}
        onSubmit={save}
        others={mayWrite && config.url && (
          <>
            <button type="button" aria-disabled={test.value?.outcome === null} onClick={send}>Send a test</button>
            <button type="button" onClick={() => (asking.value = true)}>New signing secret…</button>
          </>
        )}
      >
        <fieldset class="plain" disabled={!mayWrite}>
          <label>
            Endpoint<input
              name="url"
              type="url"
              defaultValue={config.url ?? ""}
              placeholder="https://crm.example.com/hooks"
              pattern="https?://.*"
            />
          </label>
          <fieldset>
            <legend>Notify it when</legend>
            {/* Those that a newer service has added are kept. */}
            {[...new Set([...Object.keys(EVENTS), ...config.events])].map((event) => (
              <label key={event} class="check">
                <input
                  type="checkbox"
                  name="events"
                  value={event}
                  defaultChecked={config.events.includes(event as Schemas["WebhookEvent"])}
                />
                {EVENTS[event]} <code class="soft">{event}</code>
              </label>
            ))}
          </fieldset>
          <label>
            Your fields to send<input
              name="field_names"
              defaultValue={config.field_names?.join(", ") ?? ""}
              placeholder="all of webhook_custom_fields"
            />
          </label>
          <label class="check">
            <input type="checkbox" name="bundle" defaultChecked={config.bundle_items} />Up to a hundred sites in one delivery
          </label>
          <label class="check">
            <input type="checkbox" name="enabled" defaultChecked={config.enabled || config.url === null} />Enabled
          </label>
        </fieldset>
      </Form>
      <Problem error={failure.value} />
      <div role="status">{test.value && <Outcome {...test.value} />}</div>
      {asking.value && (
        <Dialog title="Create a new signing secret?" onClose={() => (asking.value = false)}>
          <Form submit="Create the new secret" onSubmit={rotate} onCancel={() => (asking.value = false)}>
            <p>For a day, deliveries are signed with both secrets, so that your endpoint can switch. Then the old one stops working.</p>
          </Form>
        </Dialog>
      )}
    </section>
  );
}

/** The members of `wanted` that differ from the config as it was shown: changes by others stay. */
function changed(config: Config, wanted: Schemas["WebhookConfigChanges"]): Schemas["WebhookConfigChanges"] {
  const text = (value: unknown) => JSON.stringify(Array.isArray(value) ? [...value].sort() : value);
  return Object.fromEntries(Object.entries(wanted).filter(([name, value]) => text(value) !== text(config[name as keyof Config])));
}

/** The fields of a form as one text, for comparison. */
function textOf(data: FormData): string {
  return JSON.stringify([...data]);
}

interface Test {
  /** The endpoint as saved, whatever the field contains now. */
  url: string;
  /** null: not loaded yet. */
  outcome: Schemas["WebhookTest"] | null;
}

function Outcome({ url, outcome: came }: Test) {
  if (!came) return <p class="outcome">A test is on its way to {url}…</p>;
  return (
    <p class={came.delivered ? "outcome" : "outcome alert"}>
      {came.delivered ? "The endpoint accepted the test" : "The endpoint did not accept the test"}:{" "}
      {outcome(came.http_status, came.error_class)}, after {number(came.latency_ms)} ms, at {url}.
      {!came.delivered && came.response_body && (
        <>
          {" "}It answered: <code>{came.response_body.slice(0, 200)}</code>
        </>
      )}
    </p>
  );
}

/** A command that verifies a delivery, to be copied. */
function Receiver({ secret }: { secret: string }) {
  const code = `# pip install standardwebhooks
from standardwebhooks import Webhook

def receive(headers: dict[str, str], body: bytes) -> dict:
    return Webhook("${secret}").verify(body, headers)   # raises if it is not ours
`;
  return (
    <details>
      <summary>A receiver in Python</summary>
      <pre tabIndex={0}>{code}</pre>
      <button type="button" onClick={() => copy(code, "Code")}>Copy</button>
    </details>
  );
}

const FILTERS: [Status | "", string][] = [["", "All"], ["pending", "Due"], ["sending", "Sending"], ["delivered", "Delivered"], [
  "failed",
  "Failed",
]];
const TITLES: Record<Status, string> = { pending: "Due", sending: "Sending", delivered: "Delivered", failed: "Failed" };

/** `version` changes when there is a new one. */
function Deliveries({ version }: { version: number }) {
  const status = (query.value.get("status") ?? "") as Status | "";
  const shown = query.value.get("delivery");
  const recovering = useSignal(false);
  const pages = usePages(async (page, signal) => {
    const { deliveries: rows, total, next_cursor } = await call("get", "/webhook-deliveries", {
      query: { ...page, ...(status && { status }) },
      signal,
    });
    return { rows, total, next_cursor };
  }, [status]);
  useEffect(() => {
    if (version > 0) pages.refresh();
  }, [version]);

  async function recover(data: FormData) {
    const since = new Date(String(data.get("since"))).toISOString();
    const { recovered } = await call("post", "/webhook-deliveries/recover", { body: { since } });
    recovering.value = false;
    notify(`${counted(recovered, "delivery", "deliveries")} will be sent again`);
    pages.refresh();
  }

  return (
    <section aria-label="Deliveries">
      <div class="heading">
        <h2>Deliveries</h2>
        <CopyAs
          path={`webhook-deliveries?${new URLSearchParams({ limit: String(PAGE), ...(status && { status }) })}`}
          sql={`select api.list_webhook_deliveries(p_limit => ${PAGE}${status && `, p_status => ${literal(status)}`});`}
        />
        <button type="button" class="quiet" onClick={pages.reload}>Reload</button>
        {can("webhooks:write") && <button type="button" onClick={() => (recovering.value = true)}>Recover…</button>}
      </div>
      <div class="toolbar">
        <div class="tabs" role="group" aria-label="Status">
          {FILTERS.map(([name, title]) => (
            <a key={name} href={href(["webhooks"], { status: name })} aria-current={name === status ? "true" : undefined}>{title}</a>
          ))}
        </div>
      </div>
      <List
        pages={pages}
        columns={["Event", "Status", "#Attempts", "Last answer", "Created"]}
        empty={status ? "No delivery is like that." : "Nothing has been sent."}
        row={(delivery) => (
          <tr key={delivery.id}>
            <td>
              <a class="main-link" href={href(["webhooks"], { status, delivery: delivery.id })}>{delivery.event}</a>
            </td>
            <td>
              <span class={`status ${delivery.status}`}>{titled(TITLES, delivery.status)}</span>
            </td>
            <td class="number" data-label="Attempts">{number(delivery.attempts)}</td>
            <td>{NOT_DELIVERED[delivery.last_error ?? ""] ?? delivery.last_error ?? outcome(delivery.last_http_status, null)}</td>
            <td>
              <Time at={delivery.created_at} />
            </td>
          </tr>
        )}
      />
      {shown && <Delivery key={shown} id={shown} refresh={pages.refresh} />}
      {recovering.value && (
        <Dialog title="Recover failed deliveries" onClose={() => (recovering.value = false)}>
          <Form submit="Send them again" onSubmit={recover} onCancel={() => (recovering.value = false)}>
            <p>All deliveries that failed since then are sent again.</p>
            <label>
              Since<input type="datetime-local" name="since" required />
            </label>
          </Form>
        </Dialog>
      )}
    </section>
  );
}

/** If the next attempt is this soon, wait for it, checking every few seconds. */
const SOON_SECONDS = 10;
const LOOK_SECONDS = 2;

function Delivery({ id, refresh }: { id: string; refresh: () => void }) {
  const delivery = useLoad((signal) => call("get", "/webhook-deliveries/{delivery_id}", { path: { delivery_id: id }, signal }), [id]);
  const failure = useSignal<Error | undefined>(undefined);
  function again() {
    delivery.reload();
    refresh();
  }
  async function resend() {
    try {
      await call("post", "/webhook-deliveries/{delivery_id}/resend", { path: { delivery_id: id } });
      notify("It will be sent again");
      failure.value = undefined;
      again();
    } catch (error) {
      failure.value = error as Failure;
    }
  }
  const data = delivery.data.value;
  useEffect(() => {
    const isSoon = data && (data.status === "sending" || Date.parse(data.next_attempt_at ?? "") - serviceTime() < SOON_SECONDS * 1000);
    if (!isSoon) return;
    const timer = setTimeout(again, LOOK_SECONDS * 1000);
    return () => clearTimeout(timer);
  }, [data]);
  return (
    <Dialog
      title={data?.event ?? "Delivery"}
      onClose={() => close("delivery")}
      wide
      actions={data && can("webhooks:write") && <Command run={resend}>Send it again</Command>}
    >
      <Problem error={failure.value ?? delivery.error.value} />
      {!data && !delivery.error.value && <Loading />}
      {data && (
        <>
          <dl class="facts">
            <dt>Status</dt>
            <dd>
              <span class={`status ${data.status}`}>{titled(TITLES, data.status)}</span>
              {data.next_attempt_at && (
                <>
                  , next attempt <Time at={data.next_attempt_at} />
                </>
              )}
            </dd>
            <dt>
              <code>webhook-id</code>
            </dt>
            <dd>
              <code>{data.id}</code>
            </dd>
            {data.job_id && can("jobs:read") && (
              <>
                <dt>Batch</dt>
                <dd>
                  <a href={href(["batches", data.job_id])}>{data.job_id}</a>
                </dd>
              </>
            )}
          </dl>
          {data.attempt_log.length > 0 && (
            <ol class="timeline">
              {data.attempt_log.map((attempt) => (
                <li key={attempt.attempt} class={attempt.http_status && attempt.http_status < 300 ? "good" : "bad"}>
                  <Time at={attempt.attempted_at} /> {outcome(attempt.http_status, attempt.error_class)}, after {number(attempt.latency_ms)}
                  {" "}
                  ms
                  {attempt.response_body && (
                    <small>
                      <code>{attempt.response_body}</code>
                    </small>
                  )}
                </li>
              ))}
            </ol>
          )}
          <details>
            <summary>The body</summary>
            <pre tabIndex={0}>{JSON.stringify(data.body, null, 2)}</pre>
          </details>
          <CopyAs path={`webhook-deliveries/${id}`} sql={`select api.get_webhook_delivery(p_delivery_id => '${id}');`} />
        </>
      )}
    </Dialog>
  );
}
