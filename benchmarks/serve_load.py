"""A server under load: `cores serve` in a process of its own, 50 clients at once, every answer compared.

    python benchmarks/serve_load.py --seconds 60 --clients 50

Each client asks one of the example images one of a few questions, again and again; half of the uploads are files that
the server has not seen before (the same picture with other bytes after its end), so that images are encoded, kept and
dropped. A client that is refused with 429 waits as long as the server says. Meanwhile 200 uploads are sent that cannot
be used. Printed are counts, times and the server's resident memory; a wrong answer or another status ends this with 1.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import numpy as np

from cores_core.predict import Predictor

IMAGES = sorted((Path(__file__).resolve().parents[1] / "examples/images").glob("*.jpg"))
QUESTIONS = ("Which part steers the fish?", "Where is the head?", "Which parts carry it along?")
BAD_UPLOADS = 200
WARM_UP_SECONDS = 5.0


@dataclass
class Counts:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    bad_statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Start a server, load it, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    expected = answer_all(options.model)
    command = [sys.executable, "-m", "cores_cli.app", "serve", "--model", options.model, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"http://\S+:\d+", line)
        if found is None:
            raise SystemExit(line + server.stderr.read())
        counts = Counts()
        memory = asyncio.run(load(found[0], server.pid, expected, counts, options.clients, options.seconds))
        is_alive = server.poll() is None
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=60)
        talk = server.stderr.read().strip()
    print(f"answers      {counts.statuses[200]} in {options.seconds:.0f} s from {options.clients} clients")
    print(f"refused 429  {counts.statuses[429]}")
    print(f"other        {dict(counts.statuses - Counter({200: counts.statuses[200], 429: counts.statuses[429]}))}")
    print(f"bad uploads  {dict(counts.bad_statuses)}")
    print(f"wrong        {len(counts.wrong)} {counts.wrong[:3]}")
    print(f"seconds      median {np.median(counts.seconds):.2f}, 95 % {np.quantile(counts.seconds, 0.95):.2f}")
    print(f"memory MB    {', '.join(f'{value:.0f}' for value in memory)} (after warm-up, then each tenth of the time)")
    print(f"ended        {code} {talk!r}")
    is_clean = not counts.wrong and set(counts.statuses) <= {200, 429} and set(counts.bad_statuses) <= {413, 422}
    raise SystemExit(0 if is_clean and is_alive and code == 130 else 1)


def answer_all(model: str) -> dict[tuple[str, str], str]:
    """(image, question) -> the mask as the predictor gives it, as JSON."""
    predictor = Predictor.from_checkpoint(model)
    return {
        (path.name, question): json.dumps(predictor.predict(path, question).to_json()["mask"])
        for path in IMAGES
        for question in QUESTIONS
    }


async def load(
    url: str, process: int, expected: dict[tuple[str, str], str], counts: Counts, clients: int, seconds: float
) -> list[float]:
    """Ask for a while; returns the server's memory in MB over that time."""
    limits = httpx.Limits(max_connections=clients + 8)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        for _ in range(600):
            try:
                await client.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        warm_up = Counts()
        until = time.monotonic() + WARM_UP_SECONDS
        await asyncio.gather(*(ask(client, expected, warm_up, Random(-n), until) for n in range(clients)))
        memory = [read_memory(process)]
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(ask(client, expected, counts, Random(n), until)) for n in range(clients)]
        tasks.append(asyncio.create_task(send_bad_uploads(client, counts)))
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            memory.append(read_memory(process))
        await asyncio.gather(*tasks)
    return memory


async def ask(
    client: httpx.AsyncClient, expected: dict[tuple[str, str], str], counts: Counts, rng: Random, until: float
) -> None:
    """One client: ask, compare, ask again."""
    while time.monotonic() < until:
        path, question = rng.choice(IMAGES), rng.choice(QUESTIONS)
        data = path.read_bytes() + (rng.randbytes(16) if rng.random() < 0.5 else b"")
        started = time.monotonic()
        response = await client.post("/predict", files={"image": (path.name, data)}, data={"question": question})
        counts.statuses[response.status_code] += 1
        if response.status_code == 429:
            await asyncio.sleep(float(response.headers["retry-after"]))
        elif response.status_code == 200:
            counts.seconds.append(time.monotonic() - started)
            (row,) = response.json()["answers"]
            if json.dumps(row["mask"]) != expected[path.name, question]:
                counts.wrong.append(f"{path.name}: {question}")


async def send_bad_uploads(client: httpx.AsyncClient, counts: Counts) -> None:
    """Files that are empty, cut, damaged, no image, or too large."""
    rng = Random(0)
    for number in range(BAD_UPLOADS):
        data = IMAGES[number % len(IMAGES)].read_bytes()
        bad = (b"", data[: rng.randrange(20, len(data) // 2)], rng.randbytes(5000), b"GIF89a", bytes(34_000_000))
        chosen = bad[4 if number % 50 == 0 else number % 4]
        status, text = await send_bad(client, chosen)
        counts.bad_statuses[status] += 1
        if status != 413 and set(json.loads(text)) != {"error", "hint"}:
            counts.wrong.append(text[:100])
        await asyncio.sleep(0.05)


async def send_bad(client: httpx.AsyncClient, data: bytes) -> tuple[int, str]:
    """Status and text of the refusal, once the queue has room."""
    while True:
        try:
            response = await client.post("/predict", files={"image": ("bad.jpg", data)}, data={"question": "Where?"})
        except httpx.WriteError:  # refused and closed before all was sent
            return 413, ""
        if response.status_code != 429:
            return response.status_code, response.text
        await asyncio.sleep(0.3)


def read_memory(process: int) -> float:
    """Resident memory of a process in MB (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
