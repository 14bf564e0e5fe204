// Settings of the organization: its company, and its own names of devices.
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { call, type Schemas } from "../api.ts";
import { isolated, monthOf, number } from "../format.ts";
import { type Loaded, useLoad } from "../load.ts";
import { notify, teller } from "../parts/announce.tsx";
import { CopyAs } from "../parts/copy.tsx";
import { Dialog } from "../parts/dialog.tsx";
import { Form } from "../parts/form.tsx";
import { NotYet, Problem } from "../parts/misc.tsx";
import { href } from "../router.ts";
import { can, session } from "../session.ts";

type Organization = Schemas["Organization"];
type Device = Schemas["Device"];

/** What the API refuses, in words. */
const WRONG = {
  company: "A company has up to 100 letters from A to Z, digits and . _ ~ -, and no spaces, as it is part of a link.",
  name: "This name already stands for a device. Change it in the list.",
};

/** The company as typed but not saved, until the page is left, and the company that it would replace. */
const typed = signal<{ id: string; company: string; over: string | null } | null>(null);
// The browser asks before the tab is closed or reloaded with it.
addEventListener("beforeunload", (event) => {
  const mine = typed.peek();
  if (mine && mine.id === session.peek()?.organization?.id) event.preventDefault();
});

export function OrganizationScreen() {
  const loaded = useLoad((signal) => call("get", "/organization", { signal }), []);
  const devices = useLoad((signal) => call("get", "/devices", { signal }), []);
  const usage = useLoad((signal) => call("get", "/usage", { query: { limit: 1 }, signal }), []);
  useEffect(() => {
    addEventListener("focus", loaded.reload);
    return () => removeEventListener("focus", loaded.reload);
  }, []);
  const organization = loaded.data.value;
  if (!organization) return <NotYet title="Organization" loaded={loaded} />;
  const month = usage.data.value?.month;
  return (
    <>
      <div class="heading">
        <h1>Organization</h1>
        <CopyAs path="organization" sql={`select api.get_organization('${organization.id}');`} />
      </div>
      <Problem error={loaded.error.value ?? devices.error.value ?? usage.error.value} />
      <section class="card" aria-label="Facts">
        <dl class="facts">
          <dt>Name</dt>
          <dd>{organization.name}</dd>
          <dt>Id</dt>
          <dd>
            <code>{organization.id}</code>
          </dd>
          {!can("keys:admin") && (
            <>
              <dt>Company</dt>
              <dd>{organization.company ?? "none"}</dd>
            </>
          )}
          {month && (
            <>
              <dt>Lookups</dt>
              <dd>
                <a href={href(["usage"])}>{number(month.lookups)} in {monthOf(month.month)}</a>
                {month.limit === null ? ", without a limit" : `, of ${number(month.limit)} at most`}
              </dd>
            </>
          )}
        </dl>
        {can("keys:admin")
          ? <Company organization={organization} loaded={loaded} />
          : <p class="soft">Only those who may create API keys can change the company and the names below.</p>}
      </section>
      <Names organization={organization} loaded={loaded} devices={devices.data.value?.devices ?? []} />
    </>
  );
}

interface Properties {
  organization: Organization;
  loaded: Loaded<Organization>;
}

function Company({ organization, loaded }: Properties) {
  const { id, company } = organization;
  const mine = typed.value?.id === id ? typed.value : null;
  const isOvertaken = mine !== null && mine.over !== company;

  async function save() {
    const fresh = await call("get", "/organization");
    loaded.set(() => fresh);
    if (!isOvertaken && fresh.company !== company) throw new Error("The company was not saved, as somebody has just changed it.");
    const answer = await call("patch", "/organization", { body: { company: mine!.company.trim() || null } });
    loaded.set(() => answer);
    if (typed.peek() === mine) typed.value = null;
    notify("Saved");
  }
  function type(text: string) {
    typed.value = text === (company ?? "") ? null : { id, company: text, over: mine ? mine.over : company };
  }
  return (
    <Form submit="Save" onSubmit={save} disabled={!mine} onCancel={mine ? () => (typed.value = null) : undefined} words={WRONG}>
      <label>
        Company
        <input
          name="company"
          autocomplete="off"
          spellcheck={false}
          placeholder="acme"
          value={mine?.company ?? company ?? ""}
          onInput={(event) => type(event.currentTarget.value)}
        />
      </label>
      <p class="soft">
        {"Part of the links where customers continue their applications. Without it, "}
        <code>POST /incentives</code> files none, and those from batches have no link.
      </p>
      <div role="status">
        {isOvertaken && (
          <p class="banner">Somebody has {company ? `changed it to ${company}` : "removed it"} meanwhile. Saving replaces that.</p>
        )}
        {mine && <span class="alert">Not saved</span>}
      </div>
    </Form>
  );
}

/** The editor for a name: a new device has none yet. */
type Question = { what: "new" } | { what: "change" | "remove"; name: string };

function Names({ organization, loaded, devices }: Properties & { devices: Device[] }) {
  const asking = useSignal<Question | null>(null);
  const close = () => (asking.value = null);
  const names = Object.entries(organization.device_names).sort(([one], [other]) => one.localeCompare(other));
  const deviceOf = (id: number) => devices.find((device) => device.id === id)?.name ?? `Device ${id}`;

  async function change(name: string, device: number | null, done: string) {
    const tell = teller();
    const answer = await call("patch", "/organization", { body: { device_name_changes: { [name]: device } } });
    loaded.set(() => answer);
    close();
    tell(done);
  }
  async function save(data: FormData) {
    const name = String(data.get("name")).trim();
    const device = Number(data.get("device"));
    if (question?.what === "new") {
      const fresh = await call("get", "/organization");
      loaded.set(() => fresh);
      if (Object.hasOwn(fresh.device_names, name.toLowerCase())) throw new Error("name is taken");
    }
    await change(name, device, `${isolated(name)} stands for ${deviceOf(device)}`);
  }
  const question = asking.value;
  return (
    <section aria-labelledby="names">
      <div class="heading">
        <h2 id="names">Your names of devices</h2>
        {can("keys:admin") && <button type="button" onClick={() => (asking.value = { what: "new" })}>New name</button>}
      </div>
      <p class="soft">
        {"What single lookups may call a device, in their "}
        <code>device_names</code>. Capital and small letters are the same.
      </p>
      {names.length === 0 ? <p class="empty">No names yet.</p> : (
        <table class="rows">
          <thead>
            <tr>
              <th>Name</th>
              <th>Device</th>
              {can("keys:admin") && <th class="number">Actions</th>}
            </tr>
          </thead>
          <tbody>
            {names.map(([name, id]) => (
              <tr key={name}>
                <td>
                  <b>{name}</b>
                </td>
                <td>{deviceOf(id)}</td>
                {can("keys:admin") && (
                  <td class="row-actions">
                    {(["change", "remove"] as const).map((what) => (
                      <button
                        key={what}
                        type="button"
                        class="quiet"
                        aria-label={`${TITLES[what]} ${name}`}
                        onClick={() => (asking.value = { what, name })}
                      >
                        {TITLES[what]}…
                      </button>
                    ))}
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {question?.what === "remove" && (
        <Dialog title={`Remove ${isolated(question.name)}?`} onClose={close}>
          <Form
            submit="Remove the name"
            onSubmit={() => change(question.name, null, `${isolated(question.name)} is removed`)}
            onCancel={close}
            danger
          >
            <p>Lookups that name a device so will be refused.</p>
          </Form>
        </Dialog>
      )}
      {question && question.what !== "remove" && (
        <Dialog title={question.what === "new" ? "New name of a device" : `Change ${isolated(question.name)}`} onClose={close}>
          <Form submit="Save" onSubmit={save} onCancel={close} words={WRONG}>
            {question.what === "new"
              ? (
                <label>
                  Name<input name="name" maxLength={200} pattern=".*\S.*" autocomplete="off" required />
                </label>
              )
              : <input type="hidden" name="name" value={question.name} />}
            <label>
              Device
              <select name="device" required>
                <option value="">Choose one</option>
                {[...Map.groupBy(devices, ({ category_name }) =>
                  category_name)].map(([category, some]) => (
                    <optgroup key={category} label={category}>
                      {some.map(({ id, name }) => (
                        <option
                          key={id}
                          value={id}
                          selected={question.what === "change" && organization.device_names[question.name] === id}
                        >
                          {name}
                        </option>
                      ))}
                    </optgroup>
                  ))}
              </select>
            </label>
          </Form>
        </Dialog>
      )}
    </section>
  );
}

const TITLES = { change: "Change", remove: "Remove" };
