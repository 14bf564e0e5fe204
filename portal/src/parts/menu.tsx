import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export interface Choice {
  title: string;
  run: () => void;
}

/** A button that opens a list of commands. */
export function Menu({ title, choices, quiet }: { title: ComponentChildren; choices: Choice[]; quiet?: boolean }) {
  const id = useId();
  const anchor = `--${id.replace(/\W/g, "")}`;
  return (
    <>
      <button type="button" class={quiet ? "quiet" : undefined} popovertarget={id} style={{ anchorName: anchor }}>{title}</button>
      <div id={id} popover="auto" class="menu" style={{ positionAnchor: anchor }}>
        {choices.map(({ title, run }) => (
          <button key={title} type="button" popovertarget={id} popovertargetaction="hide" onClick={run}>{title}</button>
        ))}
      </div>
    </>
  );
}
