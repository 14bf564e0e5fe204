import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { API } from "../api.ts";
import { clerk } from "../clerk.ts";
import { Brand } from "../parts/frame.tsx";
import { Problem } from "../parts/misc.tsx";
import { credentialOf, isStored, refusal, resume, signIn, signOutOfClerk } from "../session.ts";

export function SignIn() {
  const client = useSignal<Awaited<ReturnType<typeof clerk>>>(null);
  useEffect(() => {
    clerk().then((loaded) => (client.value = loaded), () => {});
  }, [refusal.value]);
  // Needed after a session has ended, too, when browsers no longer obey `autofocus`.
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => field.current!.focus(), []);
  const key = useSignal("");
  const keep = useSignal(true);
  const error = useSignal<Error | undefined>(undefined);
  const busy = useSignal(false);

  async function submit(event: Event) {
    event.preventDefault();
    if (busy.peek()) return;
    busy.value = true;
    error.value = undefined;
    try {
      await signIn(credentialOf(key.value.trim()), keep.value);
    } catch (failure) {
      error.value = failure as Error;
    }
    busy.value = false;
  }

  return (
    <>
      <Brand />
      <main class="sign-in">
        <h1>Sign in</h1>
        <p class="soft">Energy incentives of up to 10,000 sites, from one file.</p>
        <form class="card" onSubmit={submit}>
          {refusal.value && !error.value && (
            <div class="problem" role="alert">
              <p>{refusal}</p>
              {isStored() && <button type="button" onClick={resume}>Try again</button>}
            </div>
          )}
          <label>
            API key
            <input
              type="password"
              name="key"
              autocomplete="off"
              spellcheck={false}
              required
              ref={field}
              placeholder="leap_live_…"
              value={key}
              onInput={(event) => (key.value = event.currentTarget.value)}
            />
          </label>
          <label class="check">
            <input type="checkbox" checked={keep} onChange={(event) => (keep.value = event.currentTarget.checked)} />
            Keep it in this tab, until the tab is closed
          </label>
          <Problem error={error.value} />
          <button type="submit" class="primary" aria-disabled={busy}>Continue</button>
        </form>
        {client.value && (
          <button
            type="button"
            class="card with-clerk"
            onClick={() => client.value!.redirectToSignIn({ signInForceRedirectUrl: location.href })}
          >
            Sign in with Clerk
          </button>
        )}
        {refusal.value && client.value?.session && (
          <button type="button" class="card with-clerk" onClick={signOutOfClerk}>Sign out of Clerk</button>
        )}
        <details>
          <summary>Where do I get a key?</summary>
          <p>
            From whoever runs the service: <code>python -m pyshell keys create --organization NAME</code>{" "}
            prints one. Anyone who has a key with the scope <code>keys:admin</code>{" "}
            can create more here. Operators sign in with the service role key.
          </p>
        </details>
        <p class="soft">
          <a href={new URL("docs", API).href}>Documentation of the API</a>
        </p>
      </main>
    </>
  );
}
