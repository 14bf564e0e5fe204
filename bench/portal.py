"""`python -m bench.portal`: how soon Chromium paints the portal, how smoothly it scrolls 10,000 rows, and how fast the portal is built.

The figures are Chromium's own: paint timing, long tasks (more than 50 ms), and the time between two animation frames.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.drafts import as_csv
from bench.nginx import running_nginx
from bench.system import System, folder_for_everyone, migrated_database
from pyshell.settings import ROOT

Figures = dict[str, Any]
ROWS = 10_000
RUNS = 5
SCROLLED_SECONDS = 8
# Per frame: nine screens a second.
PIXELS = 120
PAINTS = 15
PORTAL = ROOT / "portal"
# Scrolls an element, or the page, by so many pixels per frame to its end, and returns the figures.
SCROLL = """async ([selector, pixels, mostSeconds]) => {
    const element = selector ? document.querySelector(selector) : document.scrollingElement
    const tasks = []
    const observer = new PerformanceObserver(list => tasks.push(...list.getEntries().map(entry => entry.duration)))
    observer.observe({type: 'longtask'})
    const frame = () => new Promise(requestAnimationFrame)
    const began = await frame()
    const frames = []
    let [before, most, waits] = [began, 0, 0]
    while (waits < 60 && before - began < mostSeconds * 1000) {
        const top = element.scrollTop
        element.scrollTop += pixels
        const now = await frame()
        frames.push(now - before)
        before = now
        // At the end, more rows may still be loading.
        waits = element.scrollTop === top ? waits + 1 : 0
        if (frames.length % 30 === 0) most = Math.max(most, element.querySelectorAll('[role=row], tr').length)
    }
    observer.disconnect()
    frames.sort((one, other) => one - other)
    return {
        seconds: (before - began) / 1000,
        pixels: element.scrollHeight,
        frames_per_second: frames.length / (before - began) * 1000,
        worst_frame_ms: frames.at(-1),
        long_tasks: tasks.length,
        longest_task_ms: Math.max(0, ...tasks),
        most_rows_in_the_page: most,
    }
}"""
# Long tasks of the page so far, including those while it loaded.
LOADED = """() => new Promise(resolve => new PerformanceObserver((list, observer) => {
    observer.disconnect()
    resolve(list.getEntries().map(entry => Math.round(entry.duration)))
}).observe({type: 'longtask', buffered: true}) || setTimeout(() => resolve([]), 300))"""


def measure_portal() -> Figures:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        folder_for_everyone() as folder,
        migrated_database(folder) as database_url,
        running_nginx(folder / "nginx") as nginx,
        sync_playwright() as playwright,
    ):
        system = System(database_url, nginx.url)
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        with system.api():
            figures: Figures = {"load": os.getloadavg()[0], "first_paint_ms": measure_paint(browser, system)}
            figures["edit_seconds"] = measure_edits(browser, system)
            figures["build_seconds"] = measure_builds()
            with system.workers():
                job, _ = system.post_batch(ROWS)
                system.wait_for_report(job)
            report = system.value("select id from public.incentive_reports where job_id = %s", job)
            draft = system.request("POST", "/uploads", as_csv(ROWS), "text/csv")["id"]
            screens = {
                "draft": (f"uploads/{draft}?rows=all", ".grid", "[role=gridcell]"),
                "items": (f"batches/{job}", None, ".items tbody tr"),
                "report": (f"reports/{report}", None, ".report-sites tbody tr"),
            }
            for name, (address, scroller, row) in screens.items():
                runs = [measure_scrolling(browser, system, address, scroller, row) for _ in range(RUNS)]
                figures[name] = {figure: median_and_most([run[figure] for run in runs]) for figure in runs[0]}
        browser.close()
    return figures


@contextmanager
def signed_in(browser: Browser, system: System) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{system.port}/portal")
        page.get_by_label("API key").fill(system.headers["x-api-key"])
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("navigation", name="Main")).to_be_visible()
        yield page


def measure_scrolling(browser: Browser, system: System, address: str, scroller: str | None, row: str) -> Figures:
    """Loads a screen and scrolls its rows."""
    with signed_in(browser, system) as page:
        browser.start_tracing(page=page, categories=["toplevel"])
        page.goto(f"http://127.0.0.1:{system.port}/portal#/{address}")
        page.reload()
        expect(page.locator(row).first).to_be_visible(timeout=60_000)
        page.wait_for_timeout(500)
        loading = page.evaluate(LOADED)
        cpu_time_of_loading = cpu_milliseconds(browser.stop_tracing())
        browser.start_tracing(page=page, categories=["toplevel"])
        scrolled = page.evaluate(SCROLL, [scroller, PIXELS, SCROLLED_SECONDS])
        cpu_time = cpu_milliseconds(browser.stop_tracing())
    return rounded(
        scrolled
        | {
            "long_tasks_of_loading": len(loading),
            "most_cpu_time_of_a_task_of_loading_ms": max(cpu_time_of_loading),
            "most_cpu_time_of_a_task_ms": max(cpu_time),
            "cpu_time_of_a_frame_ms": sum(cpu_time) / (scrolled["frames_per_second"] * scrolled["seconds"]),
        }
    )


def cpu_milliseconds(trace: bytes) -> list[float]:
    """The CPU time of each task of the page's main thread, which is the same on a busy machine, where tasks take longer."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"]) for event in events if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask") and "tdur" in event and (event["pid"], event["tid"]) in mains
    ]


def measure_paint(browser: Browser, system: System) -> Figures:
    """Milliseconds from the navigation to the first contentful paint, in a fresh profile and with a warm cache."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(PAINTS):
        with browser.new_context() as context:
            page = context.new_page()
            for paints in (first, again):
                page.goto(f"http://127.0.0.1:{system.port}/portal")
                expect(page.get_by_label("API key")).to_be_visible()
                page.wait_for_timeout(200)
                paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    return {"first": median_and_most(first), "again": median_and_most(again)}


SOURCE = PORTAL / "src" / "screens" / "sign-in.tsx"


@contextmanager
def changes() -> Iterator[Iterator[str]]:
    """Texts, each of which the page shows once it is drawn from the iterator; the page is restored in the end."""
    before = SOURCE.read_text()

    def each() -> Iterator[str]:
        for number in itertools.count():
            text = f"From one file, {number}."
            SOURCE.write_text(before.replace("from one file.", f"from one file. {text}"))
            yield text

    try:
        yield each()
    finally:
        SOURCE.write_text(before)


def measure_builds() -> Figures:
    """Seconds that `make portal` takes after a change of a component, when everything is installed."""
    seconds = []
    with changes() as texts:
        for _ in range(RUNS):
            next(texts)
            started = time.perf_counter()
            subprocess.run(["make", "portal"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - started)
    subprocess.run(["make", "portal"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2)}


def measure_edits(browser: Browser, system: System) -> Figures:
    """Seconds from a change of a component until an open page shows it, with what `make portal-dev` runs."""
    dev = subprocess.Popen(["../.venv/bin/deno", "task", "--quiet", "dev"], cwd=PORTAL, stdout=subprocess.PIPE, start_new_session=True)
    assert dev.stdout is not None
    dev.stdout.readline()
    seconds = []
    try:
        with browser.new_context() as context, changes() as texts:
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{system.port}/portal")
            for _ in range(RUNS):
                page.wait_for_timeout(1000)
                started = time.perf_counter()
                expect(page.get_by_text(next(texts))).to_be_visible()
                seconds.append(time.perf_counter() - started)
    finally:
        os.killpg(dev.pid, signal.SIGTERM)
        dev.wait()
    return {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2)}


def median_and_most(values: list[float]) -> Figures:
    return {"median": round(statistics.median(values), 1), "most": round(max(values), 1)}


def rounded(figures: Figures) -> Figures:
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}


if __name__ == "__main__":
    print(json.dumps(measure_portal(), indent=2))
