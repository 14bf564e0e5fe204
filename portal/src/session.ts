// Who is signed in, and what they may do.
import { batch, computed, signal } from "@preact/signals";
import { API, call, type Credential, credential, Failure, type Schemas, type Scope, whenRefused } from "./api.ts";
import { clerk, organizations } from "./clerk.ts";
import { keep, recall } from "./keep.ts";
import { RETRY_SECONDS } from "./load.ts";

export interface Session {
  /** null: of an operator, who belongs to none. */
  organization: { id: string; name: string } | null;
  /** The API key that the session is of; null: it is of a user, or of an operator. */
  keyId: string | null;
  scopes: ReadonlySet<string>;
}

export const session = signal<Session | null>(null);
/** Why the last session ended; empty: the user wanted it so. */
export const refusal = signal("");
export const isOperator = computed(() => session.value?.organization === null);

// Of this tab alone, and gone with it. localStorage would give the key to every tab, for ever.
const STORED = "credential";

export function can(scope: Scope): boolean {
  return session.value?.scopes.has(scope) ?? false;
}

/** What somebody is signed in with, or about to be. */
let latest: Credential | null = null;

/** Signs in with a credential, which is kept for the tab if `keeps`. Throws Failure, and is then not signed in. */
export async function signIn(used: Credential, keeps: boolean) {
  latest = used;
  const enter = (next: Session | null) =>
    batch(() => {
      credential.value = next && used;
      session.value = next;
    });
  try {
    // The screen that is shown goes on with its own until then: what is done there is of that organization.
    const { organization, caller, scopes } = await call("get", "/me", { as: used });
    if (latest !== used) return;
    enter({ organization, keyId: caller.type === "api_key" ? caller.id : null, scopes: new Set(scopes) });
  } catch (error) {
    if (latest !== used) return;
    // The answer to an operator, whose credential is good but of no organization.
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

/** Goes on with the key that has taken the place of the session's own, which soon works no more. */
export function goOnWith({ id, key }: Schemas["CreatedApiKey"]) {
  const used: Credential = { kind: "api_key", key };
  credential.value = used;
  session.value = { ...session.peek()!, keyId: id };
  if (isStored()) keep("sessionStorage", STORED, JSON.stringify(used));
}

/** Says what a key looks like: what does not begin so is sent as the operator's, and the service's answer is about tokens. */
function unknownKey({ status, code }: Failure): Failure {
  return new Failure(status, "This key is not known.", code, "API keys begin with leap_live_ or leap_test_.");
}

/** Whether the tab keeps a key. */
export const isStored = () => recall("sessionStorage", STORED) !== null;

/** Takes up the session of the tab after a reload, or else the one that the browser has with Clerk. */
export async function resume() {
  const stored = recall("sessionStorage", STORED);
  try {
    if (stored) await signIn(JSON.parse(stored), true);
    else await resumeClerk();
  } catch (error) {
    if (stored && (!(error instanceof Failure) || error.status === 401)) return signOut(error instanceof Error ? error.message : "");
    // A service that is away for a moment is no reason to forget the key.
    const why = refusal.value = stored ? `${(error as Error).message} Your key is kept in this tab.` : (error as Error).message;
    const again = () => !session.peek() && !latest && refusal.peek() === why && resume();
    if (error instanceof Failure && error.isPassing) setTimeout(again, RETRY_SECONDS * 1000);
  }
}

/** Takes up the session that the browser has with Clerk, if there is one; an organization is chosen if none is. */
async function resumeClerk() {
  const client = await clerk();
  refusal.value = "";
  if (!client?.session) return;
  const [first] = organizations(client);
  if (!client.organization && first) await client.setActive({ organization: first.id });
  // Clerk's own may become another one in another tab.
  const organizationId = client.organization?.id;
  await signIn({ kind: "session", token: () => client.session?.getToken({ organizationId }) ?? Promise.resolve(null) }, false);
}

/** Acts for another organization of the user. */
export async function switchOrganization(id: string) {
  await (await clerk())?.setActive({ organization: id });
  await resume();
}

/** Ends the session that the browser has with Clerk, whose client then loads the page anew. */
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

/** A key of ours, or else the operator's credential. */
export function credentialOf(text: string): Credential {
  return text.startsWith("leap_") ? { kind: "api_key", key: text } : { kind: "internal", key: text };
}
