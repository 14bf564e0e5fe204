import { render } from "preact";
import { effect, signal } from "@preact/signals";
import { Failure } from "./api.ts";
import { isolated } from "./format.ts";
import { notify } from "./parts/announce.tsx";
import { keepFocus } from "./parts/focus.ts";
import { Brand, Frame, places, useKeys } from "./parts/frame.tsx";
import { shownName } from "./parts/misc.tsx";
import { entry, path, query } from "./router.ts";
import { Applications } from "./screens/applications.tsx";
import { Audit } from "./screens/audit.tsx";
import { Batches } from "./screens/batches.tsx";
import { Difference } from "./screens/difference.tsx";
import { DraftScreen } from "./screens/draft.tsx";
import { JobScreen } from "./screens/job.tsx";
import { Keys } from "./screens/keys.tsx";
import { OperationsScreen } from "./screens/operations.tsx";
import { OrganizationScreen } from "./screens/organization.tsx";
import { ReportScreen } from "./screens/report.tsx";
import { Reports } from "./screens/reports.tsx";
import { SignIn } from "./screens/sign-in.tsx";
import { Upload } from "./screens/upload.tsx";
import { Usage } from "./screens/usage.tsx";
import { Webhooks } from "./screens/webhooks.tsx";
import { isStored, resume, session } from "./session.ts";

/** Whether `make portal-dev` built this. */
declare const DEVELOPMENT: boolean;

const ready = signal(false);

function Portal() {
  useKeys();
  // Remove what index.html shows until the script has loaded.
  if (!ready.value) return <Brand />;
  if (!session.value) return <SignIn />;
  return (
    <Frame>
      <Screen key={session.value.organization?.id} />
    </Frame>
  );
}

function Screen() {
  const [place = places.value[0]?.name, id] = path.value;
  if (place === "batches") return id ? <JobScreen key={id} id={id} /> : <Batches />;
  if (place === "reports" && id === "difference") return <Difference />;
  if (place === "upload" || (place === "uploads" && !id)) return <Upload />;
  if (place === "uploads") return <DraftScreen key={id} id={id!} />;
  if (place === "reports") return id ? <ReportScreen key={id} id={id} /> : <Reports />;
  if (place === "applications") return <Applications />;
  if (place === "webhooks") return <Webhooks />;
  if (place === "keys") return <Keys />;
  if (place === "usage") return <Usage />;
  if (place === "organization") return <OrganizationScreen />;
  if (place === "audit") return <Audit />;
  if (place === "operations") return <OperationsScreen />;
  return (
    <section class="empty">
      <h1>Nothing here</h1>
      <p>
        {places.value.length ? "There is no page at this address. " : "This credential has none of the scopes that the portal uses. "}
        <a href="#/">Back to the start</a>
      </p>
    </section>
  );
}

const OTHERS = new Map([["upload", "New upload"], ["uploads", "Draft"], ["reports/difference", "Difference"]]);

effect(() => {
  const [first = places.value[0]?.name, second] = path.value;
  const place = places.value.find(({ name }) => name === first);
  const title = (shownName.value && isolated(shownName.value)) ?? OTHERS.get(`${first}/${second}`) ?? place?.title ??
    OTHERS.get(first ?? "") ?? "Nothing here";
  const entry = isStored() ? null : "Sign in";
  document.title = [session.value ? title : entry, "Batch Lookups"].filter(Boolean).join(" · ");
});

// Another screen begins at its top, both visually and for the keyboard; filters and dialogs belong to the same screen.
let shown = path.peek().join("/");
let current = entry();
/** How far each entry of the history was scrolled when it was left. */
const scrolled = new Map<string, number>();
history.scrollRestoration = "manual";
effect(() => {
  const next = path.value.join("/");
  query.value;
  scrolled.set(current, scrollY);
  current = entry();
  if (next === shown) return;
  shown = next;
  scrollTo(0, 0);
  document.getElementById("main")?.focus();
  scrollBack(current ? scrolled.get(current) : 0);
});

/** Scrolls to where an entry was left, as soon as it is long enough; not against the user. */
function scrollBack(to = 0) {
  if (to === 0) return;
  const ended = new AbortController();
  const observer = new ResizeObserver(() => {
    scrollTo(0, to);
    if (Math.abs(scrollY - to) <= 1) ended.abort();
  });
  ended.signal.addEventListener("abort", () => observer.disconnect());
  for (const name of ["wheel", "keydown", "pointerdown", "touchstart", "hashchange"]) {
    addEventListener(name, () => ended.abort(), { signal: ended.signal });
  }
  observer.observe(document.body);
}

// Without a key in the tab, show the form immediately; a session with Clerk replaces it.
ready.value = !isStored();
resume().finally(() => (ready.value = true));
// Replaces the placeholder in index.html.
document.body.replaceChildren();
keepFocus();
render(<Portal />, document.body);

// Errors not shown elsewhere: a command that failed without a form, such as a download.
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof Failure)) return;
  event.preventDefault();
  notify(`${event.reason.message} ${event.reason.hint}`);
});

// The browser would navigate to a file that is dropped outside a drop zone.
for (const name of ["dragover", "drop"] as const) {
  addEventListener(name, (event) => {
    if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  });
}

if (DEVELOPMENT) {
  // The page names its files by their hashes: a different page is a different build.
  const page = () => fetch(location.pathname).then((response) => response.text());
  page().then((first) => setInterval(async () => (await page()) !== first && location.reload(), 150));
}
