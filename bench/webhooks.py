"""`python -m bench.webhooks`: how many webhooks a second one worker sends, and how much they slow down the lookups."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

from bench.nginx import NginxError, running_nginx
from bench.system import System, folder_for_everyone, migrated_database


def measure(runs: int, items: int) -> tuple[list[float], list[float], list[float]]:
    """Lookups a second without and with webhooks, alternating; webhooks a second, from the response to the upload to the last delivery."""
    without, with_webhooks, webhooks = [], [], []
    os.environ["WEBHOOKS_ALLOW_PRIVATE_NETWORKS"] = "true"
    with (
        folder_for_everyone() as folder,
        migrated_database(folder) as database_url,
        running_nginx(folder / "upstream") as upstream,
        running_nginx(folder / "receiver") as receiver,
    ):
        system = System(database_url, upstream.url)
        with system.api(), system.workers():
            for run in range(runs + 1):
                system.request("PUT", "/webhook-config", b'{"url": null}')
                lookups, _ = drain(system, items)
                system.request("PUT", "/webhook-config", json.dumps({"url": receiver.url}).encode())
                slowed, delivered = drain(system, items)
                print(f"run {run}: {lookups:,.0f} lookups/s, {slowed:,.0f} with {delivered:,.0f} webhooks/s", file=sys.stderr, flush=True)
                if run:  # the first is a warm-up
                    without.append(lookups)
                    with_webhooks.append(slowed)
                    webhooks.append(delivered)
    return without, with_webhooks, webhooks


def drain(system: System, items: int) -> tuple[float, float]:
    job_id, _ = system.post_batch(items)
    answered = time.perf_counter()
    system.wait_for_report(job_id)
    lookups = items / (time.perf_counter() - answered)
    while system.value("select exists (select from app.webhook_deliveries where status in ('pending', 'sending'))"):
        time.sleep(0.02)
    delivered: int = system.value("select count(*) from app.webhook_deliveries where job_id = %s and status = 'delivered'", job_id)
    webhooks = delivered / (time.perf_counter() - answered)
    time.sleep(0.5)
    return lookups, webhooks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="number of pairs of drains, whose medians are reported")
    parser.add_argument("--items", type=int, default=10_000, help="items of a batch, at most 10,000")
    arguments = parser.parse_args()
    try:
        without, with_webhooks, webhooks = measure(arguments.runs, arguments.items)
    except NginxError as error:
        raise SystemExit(str(error)) from None
    slowed = statistics.median(1 - slow / fast for slow, fast in zip(with_webhooks, without, strict=True))
    print(f"webhooks [1/s]                 {statistics.median(webhooks):>8,.0f}")
    print(f"lookups without webhooks [1/s] {statistics.median(without):>8,.0f}")
    print(f"lookups with webhooks [1/s]    {statistics.median(with_webhooks):>8,.0f}")
    print(f"slowed by                      {slowed:>8.0%}")


if __name__ == "__main__":
    main()
