import { serviceTime } from "./api.ts";

// Numbers, amounts and times in the format of the browser's language; amounts are always in US dollars. On Linux, browsers may have a locale
// of the system, such as C or en-US@posix, among their languages.
const languages = navigator.languages.filter((language) => {
  try {
    return Intl.getCanonicalLocales(language);
  } catch {
    return false;
  }
});

const whole = new Intl.NumberFormat(languages);
const exact = new Intl.NumberFormat(languages, { maximumFractionDigits: 20 });
const oneDecimal = new Intl.NumberFormat(languages, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
// An amount that rounds to zero has no sign.
const dollarAmount = { style: "currency", currency: "USD", maximumFractionDigits: 0 } as const;
const amount = new Intl.NumberFormat(languages, { ...dollarAmount, signDisplay: "negative" });
const signedAmount = new Intl.NumberFormat(languages, { ...dollarAmount, signDisplay: "exceptZero" });
const shortAmount = new Intl.NumberFormat(languages, { style: "currency", currency: "USD", notation: "compact", maximumFractionDigits: 1 });
const share = new Intl.NumberFormat(languages, { style: "percent", maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(languages, { hour: "numeric", minute: "2-digit" });
const clockWithSeconds = new Intl.DateTimeFormat(languages, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(languages, { day: "numeric", month: "short" });
const dayOfYear = new Intl.DateTimeFormat(languages, { day: "numeric", month: "short", year: "numeric" });
const dayAlone = new Intl.DateTimeFormat(languages, { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const monthAlone = new Intl.DateTimeFormat(languages, { month: "long", year: "numeric", timeZone: "UTC" });
const full = new Intl.DateTimeFormat(languages, { dateStyle: "medium", timeStyle: "medium" });

export const number = (value: number) => whole.format(value);
/** With all digits. */
export const exactNumber = (value: number) => exact.format(value);
export const decimal = (value: number) => oneDecimal.format(value);
export const dollars = (value: number) => amount.format(value);
/** With its sign, as a difference. */
export const signedDollars = (value: number) => signedAmount.format(value);
export const shortDollars = (value: number) => shortAmount.format(value);
/** 0 to 1 as a percentage, rounded; 100 only for all, 0 only for none. */
export const percent = (value: number) =>
  share.format(value > 0 && value < 1 ? Math.min(Math.max(Math.round(value * 100), 1), 99) / 100 : value);
export const exactTime = (time: string) => full.format(new Date(time));
/** A day such as 2026-11-27, a month such as 2026-11. */
export const dayOf = (date: string) => dayAlone.format(new Date(date));
export const monthOf = (date: string) => monthAlone.format(new Date(date));

const MONTH = 31 * 24 * 60 * 60 * 1000;

/** Such as 14:32, yesterday's as 26 Nov 14:32, last year's as 26 Nov 2025 once they are a month old. */
export function shortTime(time: string, now = new Date(serviceTime())): string {
  const then = new Date(time);
  if (then.toDateString() === now.toDateString()) return clock.format(then);
  if (then.getFullYear() === now.getFullYear() || Math.abs(then.getTime() - now.getTime()) < MONTH) {
    return `${day.format(then)}, ${clock.format(then)}`;
  }
  return dayOfYear.format(then);
}

/** Such as 14:32:05, yesterday's as 26 Nov, 14:32:05, last year's as 26 Nov 2025, 14:32:05. */
export function seconds(time: string, now = new Date(serviceTime())): string {
  const then = new Date(time);
  const at = clockWithSeconds.format(then);
  if (then.toDateString() === now.toDateString()) return at;
  return `${(then.getFullYear() === now.getFullYear() ? day : dayOfYear).format(then)}, ${at}`;
}

/** Such as 45 s, 8 min 20 s, 3 h 5 min. */
export function duration(totalSeconds: number): string {
  const rounded = Math.max(0, Math.round(totalSeconds));
  const [hours, minutes, rest] = [Math.floor(rounded / 3600), Math.floor(rounded / 60) % 60, rounded % 60];
  if (hours > 0) return `${number(hours)} h${minutes ? ` ${minutes} min` : ""}`;
  if (minutes > 0) return `${minutes} min${rest && minutes < 10 ? ` ${rest} s` : ""}`;
  return `${rest} s`;
}

/** Such as Manufactured home for MANUFACTURED_HOME. */
export function words(constant: string): string {
  return constant.charAt(0).toUpperCase() + constant.slice(1).toLowerCase().replaceAll("_", " ");
}

/** The title of a code; a code that a newer service has added is shown in its own words. */
export function titled(titles: Record<string, string>, code: string): string {
  return Object.hasOwn(titles, code) ? titles[code]! : words(code);
}

export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${number(count)} ${count === 1 ? noun : plural}`;
}

/** What a filter has found. */
export const found = (count: number) => count === 0 ? "Nothing found" : `${number(count)} found`;

const list = new Intl.ListFormat("en");
/** Such as A, B, and C. */
export const listed = (names: string[]) => list.format(names);

/** A name inside a sentence: none of its letters from right to left, and no marks in it, change the direction of what follows. */
export function isolated(name: string): string {
  const plain = name.replace(/[\u202a-\u202e\u2066-\u2069]/g, "");
  return /[\p{Script=Arabic}\p{Script=Hebrew}\u200f]/u.test(plain) ? `\u2068${plain}\u2069` : plain;
}

const parts = exact.formatToParts(12345.5);
const digits = [...new Intl.NumberFormat(languages, { useGrouping: false }).format(9876543210)].reverse();
const [group, point] = ["group", "decimal"].map((type) => parts.find((part) => part.type === type)?.value ?? "");

/** The number in a text in the browser's language, such as 1.000,5 in German; null: not a number. */
export function readNumber(text: string): number | null {
  const trimmed = [...text.trim().replace("\u2212", "-")].map((letter) => {
    const digit = digits.indexOf(letter);
    return digit < 0 ? letter : String(digit);
  }).join("");
  // Accept any space or apostrophe in place of the language's own.
  const [plain, separator] = [trimmed.replace(/[\s\u00a0\u202f'\u2019]/g, "_"), group!.replace(/[\s\u00a0\u202f'\u2019]/, "_")];
  const form = new RegExp(`^-?\\d{1,3}([${separator}]\\d{2,3})*[${separator}]\\d{3}([${point}]\\d+)?$|^-?\\d+([${point}]\\d+)?$`);
  if (form.test(plain)) return Number(plain.replaceAll(separator, "").replace(point!, "."));
  return /^-?\d+\.\d+$/.test(trimmed) ? Number(trimmed) : null;
}
