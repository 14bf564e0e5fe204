// Keeps the keyboard focus: if the focused element disappears, a neighbour gets it.

/** The path to an element in its part of the page, with its position among its siblings. */
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

/** Focuses the element that a path leads to, or the nearest that still exists. */
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

/** Keeps the focus as long as the page is open. */
export function keepFocus() {
  let way: Way | undefined;
  document.addEventListener("focusin", (event) => (way = wayTo(event.target as Element)));
  // A mouse user removes it on purpose.
  document.addEventListener("pointerdown", () => (way = undefined));
  new MutationObserver(() => {
    if (way && document.activeElement === document.body) focusAt(way);
  }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["disabled"] });
}
