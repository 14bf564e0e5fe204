// Who is signed in, and what they may do.
import { batch, computed, signal } from "@preact/signals";
import { API, call, type Credential, credential, Failure, type Schemas, type Scope, whenRefused } from "./api.ts";
import { clerk, organizations } from "./clerk.ts";
import { keep, recall } from "./keep.ts";
import { RETRY_SECONDS } from "./load.ts";

export interface Session {
  /** null: an operator's, who belongs to none. */
  organization: { id: string; name: string } | null;
  /** The API key of the session; null: it is a user's, or an operator's. */
  keyId: string | null;
  scopes: ReadonlySet<string>;
}

export const session = signal<Session | null>(null);
/** Why the last session ended; empty: the user signed out. */
export const refusal = signal("");
export const isOperator = computed(() => session.value?.organization === null);

// Only for this tab, and gone with it. localStorage would give the key to every tab, permanently.
const STORED = "credential";

export function can(scope: Scope): boolean {
  return session.value?.scopes.has(scope) ?? false;
}

/** Returns a function that tells whether the organization that is signed in now still is. */
export function whetherSignedIn(): () => boolean {
  const id = session.peek()?.organization?.id;
  return () => session.peek() !== null && session.peek()!.organization?.id === id;
}

/** A credential for signing in. */
let latest: Credential | null = null;

/** Signs in with a credential, which is kept for the tab if `keeps`. Throws Failure, and is then not signed in. */
export async function signIn(used: Credential, keeps: boolean) {
  // The browser sends no such header: what was typed may be a key as it is listed, with its middle left out.
  if (used.kind !== "session" && /[^!-~]/.test(used.key)) throw unknownKey({ status: 401, code: "" });
  latest = used;
  const enter = (next: Session | null) =>
    batch(() => {
      credential.value = next && used;
      session.value = next;
    });
  try {
    // Until then, the current screen continues with its own credential: what is done there belongs to that organization.
    const { organization, caller, scopes } = await call("get", "/me", { as: used });
    if (latest !== used) return;
    enter({ organization, keyId: caller.type === "api_key" ? caller.id : null, scopes: new Set(scopes) });
  } catch (error) {
    if (latest !== used) return;
    // The response for an operator, whose credential is valid but has no organization.
    if (!(error instanceof Failure) || error.code !== "organization_missing") {
      latest = null;
      enter(null);
      throw used.kind === "internal" && error instanceof Failure && error.status === 401 ? unknownKey(error) : error;
    }
    enter({ organization: null, keyId: null, scopes: new Set() });
  }
  refusal.value = "";
  if (keeps && used.kind !== "session") keep("sessionStorage", STORED, JSON.stringify(used));
}

/** Continues with the key that replaces the session's own, which soon stops working. */
export function goOnWith({ id, key }: Schemas["CreatedApiKey"]) {
  const used: Credential = { kind: "api_key", key };
  credential.value = used;
  session.value = { ...session.peek()!, keyId: id };
  if (isStored()) keep("sessionStorage", STORED, JSON.stringify(used));
}

/** Describes what a key looks like: anything else is sent as the operator's credential, and the service's error would be about tokens. */
function unknownKey({ status, code }: Pick<Failure, "status" | "code">): Failure {
  return new Failure(status, "This key is not known.", code, "API keys begin with leap_live_ or leap_test_.");
}

/** Whether the tab keeps a key. */
export const isStored = () => recall("sessionStorage", STORED) !== null;

/** Resumes the session of the tab after a reload, or else the browser's session with Clerk. */
export async function resume() {
  const stored = recall("sessionStorage", STORED);
  try {
    if (stored) await signIn(JSON.parse(stored), true);
    else await resumeClerk();
  } catch (error) {
    if (stored && (!(error instanceof Failure) || error.status === 401)) return signOut(error instanceof Error ? error.message : "");
    // A service that is briefly down is no reason to forget the key.
    const why = refusal.value = stored ? `${(error as Error).message} Your key is kept in this tab.` : (error as Error).message;
    const again = () => !session.peek() && !latest && refusal.peek() === why && resume();
    if (error instanceof Failure && error.isPassing) setTimeout(again, RETRY_SECONDS * 1000);
  }
}

/** Resumes the browser's session with Clerk, if there is one; chooses an organization if none is active. */
async function resumeClerk() {
  const client = await clerk();
  refusal.value = "";
  if (!client?.session) return;
  const [first] = organizations(client);
  if (!client.organization && first) await client.setActive({ organization: first.id });
  // Clerk's active organization may change in another tab.
  const organizationId = client.organization?.id;
  await signIn({ kind: "session", token: () => client.session?.getToken({ organizationId }) ?? Promise.resolve(null) }, false);
}

/** Switches to another organization of the user. */
export async function switchOrganization(id: string) {
  await (await clerk())?.setActive({ organization: id });
  await resume();
}

/** Ends the browser's session with Clerk, whose client then reloads the page. */
export async function signOutOfClerk() {
  await (await clerk())?.signOut({ redirectUrl: new URL("portal", API).href });
}

export function signOut(why = "") {
  if (credential.peek()?.kind === "session" && !why) signOutOfClerk();
  keep("sessionStorage", STORED, null);
  latest = null;
  credential.value = null;
  session.value = null;
  refusal.value = why;
}

whenRefused.run = (message) => {
  if (session.peek()) signOut(`${message}. Please sign in again.`);
};

/** An API key, or else the operator's credential. */
export function credentialOf(text: string): Credential {
  return text.startsWith("leap_") ? { kind: "api_key", key: text } : { kind: "internal", key: text };
}
