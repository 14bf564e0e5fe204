import { useSignal } from "@preact/signals";
import { call, type Schemas, type Scope, serviceTime } from "../api.ts";
import { isolated, shortTime } from "../format.ts";
import { CopyAs } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Form } from "../parts/form.tsx";
import { List, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { secretShower } from "../parts/secret.tsx";
import { can, goOnWith, session } from "../session.ts";

type Key = Schemas["ApiKey"];

/** What a scope allows, in words. */
const SCOPES: Record<Scope, string> = {
  "jobs:read": "See batches and their sites",
  "jobs:write": "Upload, cancel and retry batches",
  "reports:read": "See reports",
  "reports:write": "Rename and delete reports",
  "incentives:write": "Look up single sites",
  "applications:read": "See applications",
  "applications:write": "Update applications",
  "webhooks:read": "See webhooks and their deliveries",
  "webhooks:write": "Change webhooks",
  "keys:admin": "Create and revoke API keys",
};
/** What the API refuses, in words. */
const WRONG = {
  allowed_networks: "Networks look like 203.0.113.0/24 or 2001:db8::/32, separated by commas.",
  expires_at: "The expiry date must be in the future.",
  scopes: "Choose at least one thing that the key may do.",
};
const GRACES: [number, string][] = [[0, "at once"], [3600, "after an hour"], [86400, "after a day"], [604800, "after a week"]];

export function Keys() {
  const pages = usePages(async (query, signal) => {
    const { api_keys: rows, total, next_cursor } = await call("get", "/api-keys", { query, signal });
    return { rows, total, next_cursor };
  }, []);
  const asking = useSignal<{ what: "create" } | { what: "rotate" | "revoke"; key: Key } | null>(null);
  const close = () => (asking.value = null);
  function show({ key: value }: Schemas["CreatedApiKey"], showSecret: ReturnType<typeof secretShower>) {
    showSecret({ title: "Your new key", value, children: "It is shown only this once. Store it with your other secrets." });
    close();
    pages.refresh();
  }

  async function create(data: FormData) {
    const networks = String(data.get("allowed_networks")).split(/[\s,]+/).filter(Boolean);
    const expires = String(data.get("expires_at"));
    const showSecret = secretShower();
    show(
      await call("post", "/api-keys", {
        body: {
          name: String(data.get("name")) || null,
          mode: data.get("mode") as Schemas["ApiKeyMode"],
          scopes: data.getAll("scopes") as Scope[],
          expires_at: expires ? new Date(expires).toISOString() : null,
          allowed_networks: networks.length ? networks : null,
        },
      }),
      showSecret,
    );
  }
  const isOwn = ({ id }: Key) => id === session.value?.keyId;
  const rotate = (key: Key) => async (data: FormData) => {
    const showSecret = secretShower();
    const rotated = await call("post", "/api-keys/{api_key_id}/rotate", {
      path: { api_key_id: key.id },
      body: { grace_seconds: Number(data.get("grace")) },
    });
    if (isOwn(key)) goOnWith(rotated);
    show(rotated, showSecret);
  };
  const revoke = (key: Key) => async () => {
    await call("delete", "/api-keys/{api_key_id}", { path: { api_key_id: key.id } });
    close();
    pages.refresh();
  };

  const question = asking.value;
  return (
    <>
      <div class="heading">
        <h1>API keys</h1>
        <CopyAs path="api-keys" sql={`select api.list_api_keys('${session.value!.organization!.id}');`} />
        <button type="button" class="primary" onClick={() => (asking.value = { what: "create" })}>New key</button>
      </div>
      <List
        pages={pages}
        columns={["Key", "May", "From", "Last used", "Expires", "#Actions"]}
        empty="No keys."
        class="keys-list"
        row={(key) => {
          const over = ended(key);
          return (
            <tr key={key.id} class={over ? "over" : undefined}>
              <td>
                <b>{key.name}</b>
                <small>
                  <code>{key.prefix}…{key.last_four}</code>
                </small>
              </td>
              <td>
                <Scopes scopes={key.scopes} />
              </td>
              <td data-label="From">{key.allowed_networks?.join(", ") ?? "anywhere"}</td>
              <td data-label="Last used">{key.last_used_at ? <Time at={key.last_used_at} /> : "never"}</td>
              <td data-label="Expires">{over ?? (key.expires_at ? <Time at={key.expires_at} /> : "never")}</td>
              <td class="row-actions">
                {!over && (
                  <>
                    <button
                      type="button"
                      class="quiet"
                      aria-label={`Rotate ${key.name}`}
                      onClick={() => (asking.value = { what: "rotate", key })}
                    >
                      Rotate…
                    </button>
                    <button
                      type="button"
                      class="quiet"
                      aria-label={`Revoke ${key.name}`}
                      onClick={() => (asking.value = { what: "revoke", key })}
                    >
                      Revoke…
                    </button>
                  </>
                )}
              </td>
            </tr>
          );
        }}
      />
      {question?.what === "create" && (
        <Dialog title="New API key" onClose={close} wide>
          <Form submit="Create the key" onSubmit={create} onCancel={close} words={WRONG}>
            <div class="fields">
              <label>
                Name<input name="name" maxLength={200} placeholder="What it is for" />
              </label>
              <label>
                Kind<select name="mode">
                  <option value="live">live</option>
                  <option value="test">test</option>
                </select>
              </label>
              <label>
                Expires<input name="expires_at" type="datetime-local" />
              </label>
              <label>
                Networks<input name="allowed_networks" placeholder="anywhere, or 203.0.113.0/24" />
              </label>
            </div>
            <fieldset>
              <legend>What it may do</legend>
              {(Object.keys(SCOPES) as Scope[]).filter(can).map((scope) => (
                <label key={scope} class="check">
                  <input type="checkbox" name="scopes" value={scope} defaultChecked={scope !== "keys:admin"} />
                  {SCOPES[scope]} <code class="soft">{scope}</code>
                </label>
              ))}
            </fieldset>
          </Form>
        </Dialog>
      )}
      {question?.what === "rotate" && (
        <Dialog title={`Rotate ${isolated(question.key.name)}?`} onClose={close}>
          <Form submit="Create the new key" onSubmit={rotate(question.key)} onCancel={close}>
            <p>
              The new key may do the same.{" "}
              {isOwn(question.key) && "You are signed in with the old one, and will continue with the new one. "}The old one stops working:
            </p>
            <label>
              When
              <select name="grace">
                {GRACES.map(([seconds, title]) => <option key={seconds} value={seconds} selected={seconds === 86400}>{title}</option>)}
              </select>
            </label>
          </Form>
        </Dialog>
      )}
      {question?.what === "revoke" && (
        <Dialog title={`Revoke ${isolated(question.key.name)}?`} onClose={close}>
          <Form submit="Revoke the key" onSubmit={revoke(question.key)} onCancel={close} danger>
            <p>
              Within seconds, whoever uses it gets 401. This cannot be undone.
              {isOwn(question.key) && <strong>You are signed in with it, and will be signed out.</strong>}
            </p>
          </Form>
        </Dialog>
      )}
    </>
  );
}

function Scopes({ scopes }: { scopes: Scope[] }) {
  if (Object.keys(SCOPES).every((scope) => scopes.includes(scope as Scope))) return <>everything</>;
  return <small>{scopes.join(", ")}</small>;
}

/** Why the key no longer works; null: it works. */
function ended(key: Key): string | null {
  if (key.revoked_at) return `revoked, ${shortTime(key.revoked_at)}`;
  if (key.expires_at && Date.parse(key.expires_at) <= serviceTime()) return `expired, ${shortTime(key.expires_at)}`;
  return null;
}
