// Sign-in with Clerk, if configured: only then is its client loaded, and its hosted page asks for the password.
import { call, Failure } from "./api.ts";

interface Organization {
  id: string;
  name: string;
}

/** The part of Clerk's client that is used. */
interface Client {
  load(): Promise<void>;
  session: { getToken(options: { organizationId?: string }): Promise<string | null> } | null | undefined;
  user: { organizationMemberships: { organization: Organization }[] } | null | undefined;
  organization: Organization | null | undefined;
  setActive(active: { organization: string }): Promise<void>;
  redirectToSignIn(options: { signInForceRedirectUrl: string }): Promise<unknown>;
  signOut(options: { redirectUrl: string }): Promise<void>;
}

let loading: Promise<Client | null> | undefined;

/** Clerk's client; null if Clerk is not configured, or its client has not been built. Throws Failure; the next call tries again. */
export function clerk(): Promise<Client | null> {
  return loading ??= load().catch((error) => {
    loading = undefined;
    throw error;
  });
}

async function load(): Promise<Client | null> {
  const { clerk: config } = await call("get", "/portal/config.json");
  if (!config) return null;
  try {
    await new Promise((resolve, reject) => {
      const script = Object.assign(document.createElement("script"), { src: `portal/${config.script}`, onload: resolve, onerror: reject });
      script.dataset.clerkPublishableKey = config.publishable_key;
      document.head.append(script);
    });
    const client = (globalThis as unknown as { Clerk: Client }).Clerk;
    await client.load();
    return client;
  } catch {
    throw new Failure(0, "Clerk cannot be reached.", "unreachable", "Check the connection; this page retries automatically.");
  }
}

/** Organizations that the user may switch to. */
export function organizations(client: Client): Organization[] {
  return client.user?.organizationMemberships.map(({ organization }) => organization) ?? [];
}
