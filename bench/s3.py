"""S3 through the facade: op/s of small objects, MB/s of large ones, listings, and what processes grow by meanwhile.

python -m bench.s3 [--seconds S] [--rounds N]          a fake cloud of its own
python -m bench.s3 --endpoint URL --access-key A --secret-key S [--region R] [--name NAME] [--watch NAME=PID …]

The load generator runs on the same machine. Of the rounds the best is held against the goal, as other work only ever
takes away, and the median stands beside it. Goals are twice what Ceph RGW 16.2 with one bluestore OSD does alone on
such a two-core machine (1.3 times of large PUTs): a second run with `--endpoint` measures one beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.figures import report
from bench.s3_load import Answer, Load, Outcome, Request, Signer
from tests.cloud_fixture import RunningCloud, new_home
from tests.ports import free_port_base

SMALL: Final = os.urandom(4096)
LARGE_BYTES: Final = 64 << 20
UPLOAD_BYTES: Final = 512 << 20
LARGE_COUNT: Final = 8
KEYS: Final = 10_000
NAMES: Final = 20_000
PUT_GOALS: Final = {1: 762, 16: 1568, 64: 1538}
GET_GOALS: Final = {1: 2304, 16: 5326, 64: 4538}
HEAD_GOAL, DELETE_GOAL = 7998, 1564
LARGE_PUT_GOALS: Final = {1: 481, 4: 543}
LARGE_GET_GOALS: Final = {1: 1410, 4: 1764}
# By MiB of a part.
UPLOAD_GOALS: Final = {64: 533, 8: 392}
LIST_GOAL_MS: Final = 80
GROWTH_GOAL_MB: Final = 100
_LONG_S: Final = 600.0


class Bench:
    def __init__(self, signer: Signer, name: str, seconds: float) -> None:
        self._signer = signer
        self._load = Load(signer.host)
        self._seconds = seconds
        self._name = name
        self._bucket = f"/bench-{os.getpid()}"
        self._large = os.urandom(LARGE_BYTES)
        self._figures: dict[str, list[float]] = {}
        self._written = 0

    def prepare(self) -> None:
        self._load.one(Request(self._signer.request("PUT", self._bucket, 0)))
        names = [f"{self._bucket}/o/{number % 256:02x}/{number:06d}" for number in range(NAMES)]
        self._puts = [Request(self._signer.request("PUT", name, len(SMALL)), SMALL) for name in names]
        self._others = {
            method: [Request(self._signer.request(method, name)) for name in names]
            for method in ("GET", "HEAD", "DELETE")
        }
        empty = (Request(self._signer.request("PUT", f"{self._bucket}/L/{n:06d}", 0)) for n in range(KEYS))
        self._load.run(16, empty, _LONG_S)

    def round(self) -> None:
        for clients in PUT_GOALS:
            done = self._load.run(clients, _around(self._puts, self._written), self._seconds)
            self._written += done.requests
            self._note(f"PUT 4 KiB, {clients}", done.per_s)
        stored = min(self._written, NAMES)
        for clients in GET_GOALS:
            found = self._load.run(clients, _around(self._others["GET"][:stored]), self._seconds)
            self._note(f"GET 4 KiB, {clients}", found.per_s)
        self._note("HEAD 4 KiB, 16", self._load.run(16, _around(self._others["HEAD"][:stored]), self._seconds).per_s)
        for clients in LARGE_PUT_GOALS:
            self._note(f"PUT 64 MiB, {clients}", _mb_per_s(self._put_large(clients), LARGE_BYTES))
        for clients in LARGE_GET_GOALS:
            self._note(f"GET 64 MiB, {clients}", _mb_per_s(self._get_large(clients), LARGE_BYTES))
        for part_mib in UPLOAD_GOALS:
            self._note(f"512 MiB in parts of {part_mib} MiB, 4", self._upload(part_mib << 20))
        self._note("list", self._list_ms())

    def delete(self) -> None:
        gone = self._load.run(16, iter(self._others["DELETE"][: min(self._written, NAMES)]), self._seconds)
        self._note("DELETE 4 KiB, 16", gone.per_s)

    def tell(self) -> bool:
        met = [self._row(f"PUT 4 KiB, {clients}", "op/s", goal) for clients, goal in PUT_GOALS.items()]
        met += [self._row(f"GET 4 KiB, {clients}", "op/s", goal) for clients, goal in GET_GOALS.items()]
        met += [self._row("HEAD 4 KiB, 16", "op/s", HEAD_GOAL), self._row("DELETE 4 KiB, 16", "op/s", DELETE_GOAL)]
        met += [self._row(f"PUT 64 MiB, {clients}", "MB/s", goal) for clients, goal in LARGE_PUT_GOALS.items()]
        met += [self._row(f"GET 64 MiB, {clients}", "MB/s", goal) for clients, goal in LARGE_GET_GOALS.items()]
        met += [self._row(f"512 MiB in parts of {mib} MiB, 4", "MB/s", goal) for mib, goal in UPLOAD_GOALS.items()]
        times = self._figures["list"]
        what, median = f"{self._name}: list of 10,000 keys", statistics.median(times)
        met.append(report(what, min(times), "ms", most=LIST_GOAL_MS, median=median))
        return all(met)

    def _row(self, what: str, unit: str, goal: float) -> bool:
        rates = self._figures[what]
        clients = "" if what.endswith(", 1") else "s"
        median = statistics.median(rates)
        return report(f"{self._name}: {what} client{clients}", max(rates), unit, least=goal, median=median)

    def _note(self, what: str, figure: float) -> None:
        self._figures.setdefault(what, []).append(figure)

    def _put_large(self, clients: int) -> Outcome:
        heads = (self._signer.request("PUT", f"{self._bucket}/large/{n}", LARGE_BYTES) for n in range(LARGE_COUNT))
        return self._load.run(clients, (Request(head, self._large) for head in heads), _LONG_S)

    def _get_large(self, clients: int) -> Outcome:
        heads = (self._signer.request("GET", f"{self._bucket}/large/{n}") for n in range(LARGE_COUNT))
        return self._load.run(clients, (Request(head) for head in heads), _LONG_S)

    def _upload(self, part_bytes: int) -> float:
        """MB/s of a multipart upload from its beginning to its end."""
        path, body = f"{self._bucket}/upload", self._large[:part_bytes]
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
        numbers = range(1, UPLOAD_BYTES // part_bytes + 1)
        parts = (
            Request(self._signer.request("PUT", path, part_bytes, partNumber=str(number), uploadId=upload), body)
            for number in numbers
        )
        self._load.run(4, parts, _LONG_S, told)
        listed = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n]}</ETag></Part>" for n in numbers)
        xml = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        self._load.one(Request(self._signer.request("POST", path, len(xml), uploadId=upload), xml))
        return UPLOAD_BYTES / 1e6 / (time.perf_counter() - began)

    def _list_ms(self) -> float:
        began, found, query = time.perf_counter(), 0, {"list_type": "2", "prefix": "L/"}
        while True:
            body = self._load.one(Request(self._signer.request("GET", self._bucket, None, **query))).body
            found += body.count(b"<Key>")
            token = re.search(rb"<NextContinuationToken>([^<]+)", body)
            if not token:
                break
            query["continuation_token"] = token[1].decode()
        assert found == KEYS
        return (time.perf_counter() - began) * 1000


def _around(requests: list[Request], start: int = 0) -> Iterator[Request]:
    while True:
        yield requests[start % len(requests)]
        start += 1


def _mb_per_s(done: Outcome, size: int) -> float:
    return done.per_s * size / 1e6


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(bench: Bench, watched: Mapping[str, int], name: str, rounds: int) -> bool:
    bench.prepare()
    before = {process: resident_mb(pid) for process, pid in watched.items()}
    for _ in range(rounds):
        bench.round()
    bench.delete()
    met = bench.tell()
    for process, pid in watched.items():
        grown = resident_mb(pid) - before[process]
        met &= report(f"{name}: {process} has grown by", grown, "MB", most=GROWTH_GOAL_MB)
    return met


@contextmanager
def fake_cloud() -> Iterator[RunningCloud]:
    options = ["--hypervisor", "fake", "--nodes", "1", "--no-image", "--port-base", str(free_port_base())]
    cloud = RunningCloud(home=new_home(Path(tempfile.gettempdir()) / "mallee-bench-s3"), options=options)
    try:
        cloud.up()
        yield cloud
    finally:
        cloud.destroy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--endpoint")
    parser.add_argument("--access-key", default="")
    parser.add_argument("--secret-key", default="")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--name", default="S3")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID")
    asked = parser.parse_args()
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ExitStack() as stack:
        if asked.endpoint:
            signer = Signer(asked.endpoint, asked.access_key, asked.secret_key, asked.region)
            watched = {name: int(pid) for name, pid in (one.split("=") for one in asked.watch)}
        else:
            cloud = stack.enter_context(fake_cloud())
            keys = cloud.account()
            signer = Signer(cloud.endpoint_url, keys.access_key_id, keys.secret_access_key, cloud.config.region)
            watched = {member: cloud.pid(member) for member in ("facade-1", "walrus-1", "clc-1")}
        met = measure(Bench(signer, asked.name, asked.seconds), watched, asked.name, asked.rounds)
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
