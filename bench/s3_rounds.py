"""What an S3 server is asked in a benchmark, line by line, and what it answered: figures and the CPU that they took."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bench.s3_load import Answer, Load, Outcome, Request, Signer

# So many cores of others', and a figure says less of the server than of them.
DISTURBED: Final = 0.5
_SMALL: Final = os.urandom(4096)
_LARGE: Final = os.urandom(64 << 20)
_UPLOAD_BYTES: Final = 512 << 20
_LARGE_COUNT: Final = 8
_KEYS: Final = 10_000
# As many as nobody puts within a round.
_NAMES: Final = 30_000
_LONG_S: Final = 600.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Group(Enum):
    SMALL = "small"
    LARGE = "large"
    PARTS = "parts"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    clients: int
    group: Group
    unit: str
    # The goal: so many times what Ceph's RGW does.
    times: float
    # What RGW 16.2 with one bluestore OSD did alone on a two-core machine: the measure where none can be run.
    elsewhere: float

    def __str__(self) -> str:
        return f"{self.what}, {self.clients} client{'s' if self.clients > 1 else ''}"

    def times_of(self, ours: float, theirs: float) -> float:
        """How many times as good `ours` is as `theirs`."""
        return theirs / ours if self.unit == "ms" else ours / theirs


PUT, GET, HEAD, DELETE = (f"{method} 4 KiB" for method in ("PUT", "GET", "HEAD", "DELETE"))
PUT_LARGE, GET_LARGE = "PUT 64 MiB", "GET 64 MiB"
PARTS: Final = {f"512 MiB in parts of {mib} MiB": mib << 20 for mib in (64, 8)}
LIST: Final = "list of 10,000 keys"
_IN_PARTS, _IN_SMALL_PARTS = PARTS

# In the order in which they are asked: what is read is written before.
LINES: Final = (
    Line(PUT, 1, Group.SMALL, "op/s", 2, 381),
    Line(PUT, 16, Group.SMALL, "op/s", 2, 784),
    Line(PUT, 64, Group.SMALL, "op/s", 2, 769),
    Line(GET, 1, Group.SMALL, "op/s", 2, 1152),
    Line(GET, 16, Group.SMALL, "op/s", 2, 2663),
    Line(GET, 64, Group.SMALL, "op/s", 2, 2269),
    Line(HEAD, 16, Group.SMALL, "op/s", 2, 3999),
    Line(DELETE, 16, Group.SMALL, "op/s", 2, 782),
    Line(PUT_LARGE, 1, Group.LARGE, "MB/s", 1.3, 370),
    Line(PUT_LARGE, 4, Group.LARGE, "MB/s", 1.3, 418),
    Line(GET_LARGE, 1, Group.LARGE, "MB/s", 2, 705),
    Line(GET_LARGE, 4, Group.LARGE, "MB/s", 2, 882),
    Line(_IN_PARTS, 4, Group.PARTS, "MB/s", 1.3, 410),
    Line(_IN_SMALL_PARTS, 4, Group.PARTS, "MB/s", 1.3, 302),
    Line(LIST, 1, Group.LIST, "ms", 1, 80),
)


@dataclass(frozen=True, slots=True)
class Sample:
    figure: float
    # Of all the server's processes.
    cpu_ms_per_request: float = 0.0
    # What had no part in it took so many cores meanwhile; the kernel's own threads are among it.
    strangers: float = 0.0


def undisturbed(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those that strangers left in peace; all, where there are none."""
    return [sample for sample in samples if sample.strangers < DISTURBED] or samples


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    signer: Signer
    pids: Mapping[str, int]


class Asked:
    """One server and what it has answered; a bucket of its own."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server = server
        self.samples: dict[Line, list[Sample]] = {}
        self._signer = server.signer
        self._load = Load(server.signer.host)
        self._seconds = seconds
        self._bucket = f"/bench-{os.getpid()}"
        self._names: list[str] = []
        self._puts: list[Request] = []
        self._stored = 0
        self._steps: dict[str, Callable[[Line], tuple[float, int]]] = {
            PUT: self._put,
            GET: self._read,
            HEAD: self._read,
            DELETE: self._delete,
            PUT_LARGE: self._put_large,
            GET_LARGE: self._get_large,
            **dict.fromkeys(PARTS, self._upload),
            LIST: self._list,
        }

    def prepare(self, lines: Sequence[Line]) -> None:
        self._load.one(Request(self._signer.request("PUT", self._bucket, 0)))
        if any(line.group is Group.LIST for line in lines):
            empty = (Request(self._signer.request("PUT", f"{self._bucket}/L/{n:06d}", 0)) for n in range(_KEYS))
            self._load.run(16, empty, _LONG_S)

    def round(self, number: int, lines: Sequence[Line], strangers_cpu_s: Callable[[], float]) -> None:
        """Small objects have names of their own in each round: nothing is overwritten."""
        if any(line.group is Group.SMALL for line in lines):
            self._names = [f"{self._bucket}/o{number}/{n % 256:02x}/{n:06d}" for n in range(_NAMES)]
            self._puts = [Request(self._signer.request("PUT", name, len(_SMALL)), _SMALL) for name in self._names]
            self._stored = 0
        os.sync()
        for line in lines:
            began, spent, others = time.monotonic(), self.cpu_s(), strangers_cpu_s()
            figure, requests = self._steps[line.what](line)
            cpu_ms = (self.cpu_s() - spent) * 1000 / requests
            strangers = (strangers_cpu_s() - others) / (time.monotonic() - began)
            self.samples.setdefault(line, []).append(Sample(figure, cpu_ms, strangers))

    def cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self.server.pids.values())

    def best(self, line: Line) -> float:
        figures = [sample.figure for sample in self.samples[line]]
        return min(figures) if line.unit == "ms" else max(figures)

    def median(self, line: Line) -> Sample:
        """Of the rounds that were not disturbed."""
        samples = undisturbed(self.samples[line])
        return Sample(
            statistics.median(sample.figure for sample in samples),
            statistics.median(sample.cpu_ms_per_request for sample in samples),
            statistics.median(sample.strangers for sample in samples),
        )

    # The steps: a figure in the line's unit, and how many requests it took.

    def _put(self, line: Line) -> tuple[float, int]:
        done = self._load.run(line.clients, iter(self._puts[self._stored :]), self._seconds)
        self._stored += done.requests
        return done.per_s, done.requests

    def _read(self, line: Line) -> tuple[float, int]:
        method = line.what.split()[0]
        requests = [Request(self._signer.request(method, name)) for name in self._names[: self._stored]]
        done = self._load.run(line.clients, _around(requests), self._seconds)
        return done.per_s, done.requests

    def _delete(self, line: Line) -> tuple[float, int]:
        requests = [Request(self._signer.request("DELETE", name)) for name in self._names[: self._stored]]
        done = self._load.run(line.clients, iter(requests), self._seconds)
        return done.per_s, done.requests

    def _put_large(self, line: Line) -> tuple[float, int]:
        heads = (self._signer.request("PUT", f"{self._bucket}/large/{n}", len(_LARGE)) for n in range(_LARGE_COUNT))
        return _mb_per_s(self._load.run(line.clients, (Request(head, _LARGE) for head in heads), _LONG_S))

    def _get_large(self, line: Line) -> tuple[float, int]:
        heads = (self._signer.request("GET", f"{self._bucket}/large/{n}") for n in range(_LARGE_COUNT))
        return _mb_per_s(self._load.run(line.clients, (Request(head) for head in heads), _LONG_S))

    def _upload(self, line: Line) -> tuple[float, int]:
        """A multipart upload from its beginning to its end."""
        path, body = f"{self._bucket}/upload", _LARGE[: PARTS[line.what]]
        etags: dict[int, str] = {}

        def told(request: Request, answer: Answer) -> None:
            (number,) = re.findall(rb"partNumber=(\d+)", request.head)
            (etag,) = re.findall(rb'(?i)etag: *"(\w+)"', answer.head)
            etags[int(number)] = etag.decode()

        began = time.perf_counter()
        answer = self._load.one(Request(self._signer.request("POST", path, 0, uploads="")))
        found = re.search(rb"<UploadId>([^<]+)", answer.body)
        assert found
        upload = found[1].decode()
        numbers = range(1, _UPLOAD_BYTES // len(body) + 1)
        parts = (
            Request(self._signer.request("PUT", path, len(body), partNumber=str(number), uploadId=upload), body)
            for number in numbers
        )
        self._load.run(line.clients, parts, _LONG_S, told)
        listed = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n]}</ETag></Part>" for n in numbers)
        xml = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        self._load.one(Request(self._signer.request("POST", path, len(xml), uploadId=upload), xml))
        return _UPLOAD_BYTES / 1e6 / (time.perf_counter() - began), len(numbers) + 2

    def _list(self, line: Line) -> tuple[float, int]:
        began, found, pages, query = time.perf_counter(), 0, 0, {"list_type": "2", "prefix": "L/"}
        while True:
            body = self._load.one(Request(self._signer.request("GET", self._bucket, None, **query))).body
            found += body.count(b"<Key>")
            pages += 1
            token = re.search(rb"<NextContinuationToken>([^<]+)", body)
            if not token:
                break
            query["continuation_token"] = token[1].decode()
        assert found == _KEYS
        return (time.perf_counter() - began) * 1000, pages


def machine_cpu_s() -> float:
    """What all processes of the machine and its kernel have taken."""
    return busy_ticks(Path("/proc/stat").read_text()) / _TICKS_PER_S


def busy_ticks(stat: str) -> int:
    """Of the text of /proc/stat: all but the time in which cores were idle or waited for disks (proc(5))."""
    user, nice, system, _idle, _waited, *others = (int(value) for value in stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + sum(others)


def cpu_s(pid: int) -> float:
    """User's and system's time of a process and of its children that are gone."""
    return cpu_ticks(Path(f"/proc/{pid}/stat").read_text()) / _TICKS_PER_S


def cpu_ticks(stat: str) -> int:
    """Of the text of /proc/PID/stat, whose second field may hold spaces and brackets (proc(5))."""
    return sum(int(value) for value in stat.rpartition(")")[2].split()[11:15])


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _around(requests: list[Request]) -> Iterator[Request]:
    while True:
        yield from requests


def _mb_per_s(done: Outcome) -> tuple[float, int]:
    return done.per_s * len(_LARGE) / 1e6, done.requests
