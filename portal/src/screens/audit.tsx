// Who created, changed, revoked or linked what.
import { call, type Schemas } from "../api.ts";
import { titled } from "../format.ts";
import { CopyAs, literal } from "../parts/copy.tsx";
import { List, PAGE, usePages } from "../parts/list.tsx";
import { Time } from "../parts/misc.tsx";
import { href, query, setQuery } from "../router.ts";

type Event = Schemas["AuditEvent"];

// Actions that the API may add later are shown by their names.
const ACTIONS: Record<string, string> = {
  "api_key.created": "API key created",
  "api_key.rotated": "API key rotated",
  "api_key.revoked": "API key revoked",
  "webhooks.changed": "Webhooks changed",
  "webhooks.secret_rotated": "Webhook secret rotated",
  "webhooks.disabled": "Webhooks disabled",
  "webhooks.deleted": "Webhooks deleted",
  "report.shared": "Report shared",
  "report.share_revoked": "Share link revoked",
  "organization.created": "Organization created",
  "organization.changed": "Organization changed",
  "organization.renamed": "Organization renamed",
  "organization.linked": "Organization linked to Clerk",
};
const ACTORS: Record<Event["actor"]["type"], string> = {
  api_key: "API key",
  user: "User",
  operator: "Operator of the service",
  system: "The service itself",
};

export function Audit() {
  const action = query.value.get("action") ?? "";
  const pages = usePages(async (page, signal) => {
    const { audit_events: rows, total, next_cursor } = await call("get", "/audit-events", {
      query: { ...page, ...(action && { action }) },
      signal,
    });
    return { rows, total, next_cursor };
  }, [action]);
  return (
    <>
      <div class="heading">
        <h1>Audit</h1>
        <CopyAs
          path={`audit-events?limit=${PAGE}${action && `&action=${action}`}`}
          sql={`select * from api.audit_events${action && ` where action = ${literal(action)}`} order by id desc limit ${PAGE};`}
        />
      </div>
      <div class="toolbar">
        <p class="soft">Who created, changed, revoked or shared what.</p>
        <select aria-label="Action" value={action} onChange={(event) => setQuery({ action: event.currentTarget.value })}>
          <option value="">Every action</option>
          {Object.entries(ACTIONS).map(([name, title]) => <option key={name} value={name}>{title}</option>)}
        </select>
      </div>
      <List
        pages={pages}
        columns={["When", "What", "Who", "Details"]}
        empty="No matching events."
        class="audit"
        row={(event) => (
          <tr key={event.id}>
            <td>
              <Time at={event.created_at} />
            </td>
            <td>
              <b>{ACTIONS[event.action] ?? event.action}</b>
              {event.target_id && (
                <small>
                  {event.action.startsWith("report.")
                    ? <a href={href(["reports", event.target_id])}>{event.target_id}</a>
                    : event.target_id}
                </small>
              )}
            </td>
            <td data-label="Who">
              {titled(ACTORS, event.actor.type)}
              {event.actor.id && <small>{event.actor.id}</small>}
            </td>
            <td data-label="Details">
              {Object.entries(event.details).filter(([, value]) => value !== null).map(([name, value]) => (
                <small key={name}>{name.replaceAll("_", " ")}: {inWords(value)}</small>
              ))}
            </td>
          </tr>
        )}
      />
    </>
  );
}

function inWords(value: unknown): string {
  if (Array.isArray(value)) return value.map(inWords).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
