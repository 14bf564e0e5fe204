"""The metrics of all processes, from whichever is asked.

Each answers the others over a socket in a folder that only they can access. Its last answer is kept there: the process
that replaces it continues from those counts, so that counters never decrease unless all processes restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from itertools import chain
from pathlib import Path

from prometheus_client.core import Metric

ANSWER_SECONDS = 1.0
# Metrics of the process itself: not to be summed.
OF_ONE_PROCESS = ("process_", "python_")
COUNTED = ("counter", "histogram")
# Not to be summed, either: the maximum is that of all.
GREATEST = frozenset({"batch_lookups_db_replica_lag_seconds"})

Labels = tuple[tuple[str, str], ...]
# A metric: name, documentation and type, and its samples, each with a name, labels and a value.
Told = list[tuple[str, str, str, list[tuple[str, Labels, float]]]]


class Exchange:
    """Sends the metrics of this process to the others, and collects theirs."""

    def __init__(self, processes: int, folder: Path) -> None:
        self.number = 0
        self._numbers = range(processes)
        self._folder = folder
        # The counts of its predecessor.
        self._before: list[Metric] = []

    @asynccontextmanager
    async def told(self, metrics: Callable[[], list[Metric]]) -> AsyncIterator[None]:
        self._before = list(of_process(self.number, counted(self._told_last(self.number))))

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer), suppress(OSError):
                writer.write(self._tell(metrics()))
                await writer.drain()

        socket = self._socket(self.number)
        socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(answer, socket)
        try:
            yield
        finally:
            server.close()

    async def of_all(self, metrics: list[Metric]) -> list[Metric]:
        others = [number for number in self._numbers if number != self.number]
        answers = dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))
        answers[self.number] = json.loads(self._tell(metrics))
        return added(of_process(number, told) for number, told in sorted(answers.items()))

    async def _ask(self, number: int) -> Told:
        """The metrics of the process with that number. If it does not respond, being busy or gone, its last counts remain."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                with closing(writer):
                    answer: Told = json.loads(await reader.read())
                return answer
        except (OSError, TimeoutError, ValueError):
            return counted(self._told_last(number))

    def _tell(self, metrics: Iterable[Metric]) -> bytes:
        told = json.dumps(list(map(as_told, added([metrics, self._before])))).encode()
        part = self._folder / f"{self.number}.part"
        # If the disk is full, the file keeps its former content, and the request is still answered.
        with suppress(OSError):
            part.write_bytes(told)
            part.rename(self._file(self.number))
        return told

    def _told_last(self, number: int) -> Told:
        try:
            told: Told = json.loads(self._file(number).read_bytes())
        except FileNotFoundError:
            return []
        return told

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.socket"


def as_told(metric: Metric) -> tuple[str, str, str, list[tuple[str, Labels, float]]]:
    samples = [(sample.name, tuple(sorted(sample.labels.items())), sample.value) for sample in metric.samples]
    return metric.name, metric.documentation, metric.type, samples


def counted(told: Told) -> Told:
    """The metrics that outlive their process."""
    return [metric for metric in told if metric[2] in COUNTED and not metric[0].startswith(OF_ONE_PROCESS)]


def of_process(number: int, told: Told) -> Iterable[Metric]:
    """The metrics of one process, with its own labelled with its number."""
    for name, about, kind, samples in told:
        metric = Metric(name, about, kind)
        for sample, labels, value in samples:
            of = {"process": str(number)} if name.startswith(OF_ONE_PROCESS) else {}
            metric.add_sample(sample, dict(labels) | of, value)
        yield metric


def added(several: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Sums metrics with the same names and labels."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for metric in chain.from_iterable(several):
        found.setdefault(metric.name, metric)
        of_metric = values.setdefault(metric.name, {})
        for sample in metric.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            known = of_metric.get(key)
            of_metric[key] = sample.value if known is None else together(sample.name, known, sample.value)
    return [with_values(metric, values[name]) for name, metric in found.items()]


def together(sample: str, one: float, other: float) -> float:
    if sample.endswith("_created"):
        return min(one, other)
    return max(one, other) if sample in GREATEST else one + other


def with_values(metric: Metric, values: Mapping[tuple[str, Labels], float]) -> Metric:
    family = Metric(metric.name, metric.documentation, metric.type)
    for (sample, labels), value in values.items():
        family.add_sample(sample, dict(labels), value)
    return family
