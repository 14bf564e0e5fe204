// The focus is never lost: where what had it goes away, its neighbour takes it.

/** An element and those around it in its part of the page, each with its place among its neighbours. */
export type Way = { element: Element; around: Element; place: number }[];

const FOCUSABLE = "a[href], button:enabled, input:enabled, select:enabled, textarea:enabled, summary, [tabindex='0']";

export function wayTo(element: Element | null): Way {
  const way: Way = [];
  while (element?.parentElement && element.parentElement !== document.body) {
    way.push({ element, around: element.parentElement, place: [...element.parentElement.children].indexOf(element) });
    element = element.parentElement;
  }
  return way;
}

/** Gives the focus to what a way leads to, or to the nearest that is still there. */
export function focusAt(way: Way) {
  for (const { element, around, place } of way) {
    const beside = [...around.children].slice(0, place + 1).reverse();
    for (const near of element.isConnected ? [element] : around.isConnected ? beside : []) {
      const found = near.matches(FOCUSABLE) ? near : near.querySelector(FOCUSABLE);
      if (found instanceof HTMLElement) {
        found.focus();
        if (document.activeElement === found) return;
      }
    }
  }
  document.getElementById("main")?.focus();
}

/** Looks after the focus, for as long as the page is open. */
export function keepFocus() {
  let way: Way | undefined;
  document.addEventListener("focusin", (event) => (way = wayTo(event.target as Element)));
  // Somebody with a mouse takes it away on purpose.
  document.addEventListener("pointerdown", () => (way = undefined));
  new MutationObserver(() => {
    if (way && document.activeElement === document.body) focusAt(way);
  }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["disabled"] });
}
