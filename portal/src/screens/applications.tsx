import { useSignal } from "@preact/signals";
import { call, type Schemas } from "../api.ts";
import { dollars, isolated, titled } from "../format.ts";
import { useLoad } from "../load.ts";
import { teller } from "../parts/announce.tsx";
import { CopyAs, literal } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Command, useShown } from "../parts/form.tsx";
import { List, usePages } from "../parts/list.tsx";
import { openAtArrow } from "../parts/menu.tsx";
import { Loading, Problem, Time } from "../parts/misc.tsx";
import { close, href, query, setQuery } from "../router.ts";
import { can } from "../session.ts";

type Application = Schemas["Application"];
type Status = Schemas["ApplicationStatus"];

const TITLES: Record<Status, string> = {
  not_started: "Not started",
  in_progress: "In progress",
  awaiting_partner: "Awaiting the partner",
  completed: "Completed",
  submitted: "Submitted",
  approved: "Approved",
  rejected: "Rejected",
};

export function Applications() {
  const status = (query.value.get("status") ?? "") as Status | "";
  const reference = query.value.get("reference") ?? "";
  const shown = query.value.get("application");
  const field = useShown(reference);
  const failure = useSignal<Error | undefined>(undefined);
  const filter = { ...(status && { application_status: status }), ...(reference && { refId: reference }) };
  const pages = usePages(async (page, signal) => {
    const { applications: rows, total, next_cursor } = await call("get", "/applications", { query: { ...page, ...filter }, signal });
    return { rows, total, next_cursor };
  }, [status, reference]);

  async function move(application: Application, to: Status) {
    failure.value = undefined;
    const tell = teller();
    try {
      const moved = await call("patch", "/applications/{application_id}", {
        path: { application_id: application.id },
        body: { application_status: to },
      });
      pages.replace((row) => row.id === moved.id ? moved : row);
      tell(`${isolated(application.reference_id)}: ${titled(TITLES, to).toLowerCase()}`);
    } catch (error) {
      failure.value = error as Error;
      pages.refresh();
    }
  }

  return (
    <>
      <div class="heading">
        <h1>Applications</h1>
        <CopyAs
          path={`applications?${new URLSearchParams(filter)}`}
          sql={`select api.list_applications(${
            [status && `p_application_status => ${literal(status)}`, reference && `p_reference_id => ${literal(reference)}`].filter(Boolean)
              .join(", ")
          });`}
        />
      </div>
      <div class="toolbar">
        <select aria-label="Status" value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
          <option value="">Every status</option>
          {Object.entries(TITLES).map(([value, title]) => <option key={value} value={value}>{title}</option>)}
        </select>
        <input
          ref={field}
          type="search"
          aria-label="Reference"
          placeholder="Reference"
          defaultValue={reference}
          onChange={(event) => setQuery({ reference: event.currentTarget.value.trim() })}
        />
      </div>
      {can("jobs:read") && <NoCompany />}
      <Problem error={failure.value} />
      <List
        pages={pages}
        columns={["Customer", "Program", "#Incentive", "Status", "Changed"]}
        empty={status || reference
          ? "No application is like that."
          : "No applications. Sites that are uploaded with create_application get one for each program that pays."}
        row={(application) => (
          <tr key={application.id}>
            <td>
              <a class="main-link" href={href(["applications"], { status, reference, application: String(application.id) })}>
                {application.reference_id}
              </a>
              <small>application {application.id}</small>
            </td>
            <td>{application.program_name}</td>
            <td class="number">{dollars(application.total_incentive)}</td>
            <td>
              {can("applications:write") && application.next_statuses.length > 0
                ? (
                  <select
                    aria-label={`Status of application ${application.id}`}
                    value={application.application_status}
                    onKeyDown={openAtArrow}
                    onChange={(event) => move(application, event.currentTarget.value as Status)}
                  >
                    {[application.application_status, ...application.next_statuses].map((value) => (
                      <option key={value} value={value}>{titled(TITLES, value)}</option>
                    ))}
                  </select>
                )
                : titled(TITLES, application.application_status)}
            </td>
            <td>
              <Time at={application.updated_at} />
            </td>
          </tr>
        )}
      />
      {shown && <Details key={shown} id={Number(shown)} onChange={(moved) => pages.replace((row) => row.id === moved.id ? moved : row)} />}
    </>
  );
}

/** Links to where the company is set, without which customers have no link to continue with. */
function NoCompany() {
  const organization = useLoad((signal) => call("get", "/organization", { signal }), []);
  if (organization.data.value?.company !== null) return null;
  return (
    <p class="banner">
      The organization has no company. Single lookups file no application until it has one, and those of batches have no link where the
      customer goes on. <a href={href(["organization"])}>{can("keys:admin") ? "Set the company" : "The organization"}</a>
    </p>
  );
}

/** One application, and its possible next statuses. */
function Details({ id, onChange }: { id: number; onChange: (moved: Application) => void }) {
  const path = { application_id: id };
  const loaded = useLoad((signal) => call("get", "/applications/{application_id}", { path, signal }), [id]);
  const failure = useSignal<Error | undefined>(undefined);
  const application = loaded.data.value;
  async function move(to: Status) {
    failure.value = undefined;
    try {
      const moved = await call("patch", "/applications/{application_id}", { path, body: { application_status: to } });
      loaded.set(() => moved);
      onChange(moved);
    } catch (error) {
      failure.value = error as Error;
      // Somebody else may have changed it.
      loaded.reload();
    }
  }
  const times: [string, string | null | undefined][] = [
    ["Made", application?.created_at],
    ["Changed", application?.updated_at],
    ["Submitted", application?.submitted_at],
    ["Decided", application?.decided_at],
  ];
  return (
    <Dialog
      title={`Application ${id}`}
      onClose={() => close("application")}
      wide
      actions={application && can("applications:write") &&
        application.next_statuses.map((status) => <Command key={status} run={() => move(status)}>{titled(TITLES, status)}</Command>)}
    >
      <Problem error={failure.value ?? loaded.error.value} />
      {!application && !loaded.error.value && <Loading />}
      {application && (
        <>
          <dl class="facts">
            <dt>Status</dt>
            <dd>{titled(TITLES, application.application_status)}</dd>
            <dt>Reference</dt>
            <dd>{application.reference_id}</dd>
            <dt>Customer</dt>
            <dd>{application.customer_id}</dd>
            <dt>Program</dt>
            <dd>
              {application.program_name} <code>{application.program_id}</code>
            </dd>
            <dt>Incentive</dt>
            <dd>{dollars(application.total_incentive)}</dd>
            {times.map(([title, at]) =>
              at && (
                <>
                  <dt>{title}</dt>
                  <dd>
                    <Time at={at} />
                  </dd>
                </>
              )
            )}
          </dl>
          <CopyAs path={`applications/${id}`} sql={`select api.get_application(p_application_id => ${id});`} />
        </>
      )}
    </Dialog>
  );
}
