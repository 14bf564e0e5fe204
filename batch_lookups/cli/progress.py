"""The progress of a job: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batch_lookups.cli.session import is_terminal, minute, say, telling

if TYPE_CHECKING:
    from batch_lookups.types import Job

LINE_SECONDS = 10.0
# Columns of the terminal. Text goes before the bar, which is narrower or omitted if there is no room for it.
BAR_WIDTH, LEAST_BAR_WIDTH = 40, 8

Show = Callable[["Job"], None]


@contextmanager
def shown(*, beside_data: bool = False) -> Iterator[Show]:
    """Returns a function that shows a job on each call. `beside_data`: shows nothing, as the terminal is for data."""
    if beside_data:
        yield lambda job: None
    elif is_terminal():
        with _bar() as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console, bar, text = Console(stderr=True), BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.description}", markup=False)
    # Standard output is left alone: it is for data.
    progress = Progress(text, console=console, auto_refresh=False, redirect_stdout=False)
    task = progress.add_task("waiting", total=None)

    def show(job: Job) -> None:
        room = console.width - len("100% ")
        description = told(job)
        if len(description) > room:
            description = told(job, brief=True)
        bar.bar_width = min(BAR_WIDTH, room - len(description) - 1)
        progress.columns = (bar, text) if bar.bar_width >= LEAST_BAR_WIDTH else (text,)
        progress.update(task, total=job["total_items"], completed=job["processed_items"], description=description)
        with telling():
            progress.refresh()

    with telling():
        progress.start()
    try:
        yield show
    finally:
        with telling():
            progress.stop()


def _lines() -> Show:
    last = float("-inf")

    def show(job: Job) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS or job["processed_items"] == job["total_items"]:
            last = time.monotonic()
            say(told(job))

    return show


def told(job: Job, *, brief: bool = False) -> str:
    """Such as: 130 of 250 done, 2 failed, 20.0/s, 6 s left; in brief: 6 s left, 130 of 250 done, 2 failed."""
    parts = [f"{job['processed_items']:,} of {job['total_items']:,} done"]
    if job["failed_items"]:
        parts.append(f"{job['failed_items']:,} failed")
    if job["waiting_until"]:
        parts.append(f"waiting until {minute(job['waiting_until'])} UTC, when the organization has lookups again")
    elif job["waiting_for"]:
        parts.append("waiting to be continued or cancelled")
    elif job["processed_items"] < job["total_items"]:
        if job["rate"]:
            # From the rate, not from the service's estimated time: the clocks of the two machines may differ.
            left = (job["total_items"] - job["processed_items"]) / job["rate"]
            in_time = f"{duration(left)} left"
            parts = [in_time, *parts] if brief else [*parts, f"{job['rate']:.1f}/s", in_time]
        if job["upstream"]["unavailable_since"]:
            parts.append(f"the incentives API has not answered since {minute(job['upstream']['unavailable_since'])} UTC, items wait for it")
        elif job["status"] == "pending":
            parts.append("waiting for its turn")
    elif job["status"] == "cancelled":
        parts.append("cancelled")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Such as 45 s, 3 min, 2 h 5 min."""
    minutes = max(0, round(seconds / 60))
    if seconds < 100:
        return f"{max(0, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
