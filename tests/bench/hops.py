"""What a hop through the whole runtime costs on `memory://`: one JSON line per result."""

import asyncio
import cProfile
import json
import pstats
import resource
import sys
import time
from collections.abc import Sequence

import msgspec

from asyafw import App, actor
from asyafw.client import Client

JOBS = 100_000
BATCH = 1_000


class Item(msgspec.Struct):
    number: int
    text: str = "x" * 200


@actor
async def first(item: Item) -> Item:
    return item


@actor
async def second(item: Item) -> Item:
    return item


@actor
async def third(item: Item) -> Item:
    return item


ROUTE = ("first", "second", "third")


async def run(jobs: int, *, events: str = "hops") -> dict[str, float]:
    """Send so many jobs through three actors, and wait for the last of them."""
    app = App([first, second, third], flows={"all": ROUTE}, events=events)  # type: ignore[arg-type]
    async with app.worker("memory://bench") as worker, app.connect("memory://bench") as client:
        await submit(client, 100)
        await _drained(worker.metrics, 100)
        began, cpu = time.perf_counter(), time.process_time()
        await submit(client, jobs)
        submitted_cpu = time.process_time() - cpu
        await _drained(worker.metrics, jobs + 100)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    hops = len(ROUTE) * jobs
    return {
        "jobs_per_s": round(jobs / wall_s),
        "hops_per_s": round(hops / wall_s),
        "cpu_us_per_hop": round(cpu_s / hops * 1e6, 2),
        "submit_and_wait_cpu_us": round(submitted_cpu / jobs * 1e6, 2),
    }
