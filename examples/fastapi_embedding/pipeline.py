"""The pipeline: it plans a report and writes it page by page."""

from dataclasses import dataclass

import anyio

from asyafw import App, Context, Reject, actor

__all__ = ["Order", "app"]

_PAGE_S = 0.1


@dataclass
class Order:
    topic: str
    pages: int = 3


@actor
async def plan(order: Order) -> list[str]:
    if order.pages < 1:
        raise Reject("a report has at least one page")
    return [f"{order.topic}, part {n + 1}" for n in range(order.pages)]


@actor(concurrency=4, timeout_s=60)
async def write(titles: list[str], ctx: Context) -> list[str]:
    pages: list[str] = []
    for title in titles:
        await anyio.sleep(_PAGE_S)  # in place of a language model
        pages.append(f"All about {title}.")
        await ctx.progress(len(pages) / len(titles), title)
    ctx.log.info("wrote a report", pages=len(pages))
    return pages


app = App(actors=[plan, write], flows={"reports": ["plan", "write"]})
