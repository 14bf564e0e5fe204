import { useSignal } from "@preact/signals";
import { call, type Schemas } from "../api.ts";
import { dollars } from "../format.ts";
import { notify } from "../parts/announce.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { List, usePages } from "../parts/list.tsx";
import { Problem, Time } from "../parts/misc.tsx";
import { query, setQuery } from "../router.ts";
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
  const failure = useSignal<Error | undefined>(undefined);
  const filter = { ...(status && { application_status: status }), ...(reference && { refId: reference }) };
  const pages = usePages(async (page, signal) => {
    const { applications: rows, total, next_cursor } = await call("get", "/applications", { query: { ...page, ...filter }, signal });
    return { rows, total, next_cursor };
  }, [status, reference]);

  async function move(application: Application, to: Status) {
    failure.value = undefined;
    try {
      const moved = await call("patch", "/applications/{application_id}", {
        path: { application_id: application.id },
        body: { application_status: to },
      });
      pages.replace((row) => row.id === moved.id ? moved : row);
      notify(`${application.reference_id}: ${TITLES[to].toLowerCase()}`);
    } catch (error) {
      failure.value = error as Error;
      pages.reload();
    }
  }

  return (
    <>
      <div class="heading">
        <h1>Applications</h1>
        <CopyAs
          path={`applications${status && `?application_status=${status}`}`}
          sql={`select api.list_applications(${status && `p_status => '${status}'`});`}
        />
      </div>
      <div class="toolbar">
        <select aria-label="Status" value={status} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
          <option value="">Every status</option>
          {Object.entries(TITLES).map(([value, title]) => <option key={value} value={value}>{title}</option>)}
        </select>
        <input
          type="search"
          aria-label="Reference"
          placeholder="Reference"
          defaultValue={reference}
          onChange={(event) => setQuery({ reference: event.currentTarget.value.trim() })}
        />
      </div>
      <Problem error={failure.value} />
      <List
        pages={pages}
        columns={["Customer", "Program", "#Incentive", "Status", "Changed"]}
        empty="No applications. Sites that are uploaded with create_application get one for each program that pays."
        row={(application) => (
          <tr key={application.id}>
            <td>
              <b>{application.reference_id}</b>
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
                    onChange={(event) => move(application, event.currentTarget.value as Status)}
                  >
                    {[application.application_status, ...application.next_statuses].map((value) => (
                      <option key={value} value={value}>{TITLES[value]}</option>
                    ))}
                  </select>
                )
                : TITLES[application.application_status]}
            </td>
            <td>
              <Time at={application.updated_at} />
            </td>
          </tr>
        )}
      />
    </>
  );
}
