"""The service: it runs the pipeline, and offers its jobs over HTTP."""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec import json

from asyafw import Client, Job, JobFailed, ResultTimeout
from examples.fastapi_embedding.pipeline import Order, app

__all__ = ["create", "service"]

_PATIENCE_S = 20.0

router = APIRouter(prefix="/reports")


def create(transport: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncGenerator[None]:
        async with app.worker(transport), app.connect(transport) as client:
            service.state.client = client
            yield

    service = FastAPI(title="Reports", lifespan=lifespan)
    service.include_router(router)
    return service


def _client(request: Request) -> Client:
    client: Client = request.app.state.client
    return client


Connected = Annotated[Client, Depends(_client)]


@router.post("", status_code=202)
async def submit(order: Order, client: Connected) -> Response:
    """Submit an order, and tell where to follow it."""
    return _accepted(await client.submit("reports", order))


@router.post("/now", response_model=list[str])
async def write_now(order: Order, client: Connected) -> Response:
    """Submit an order and wait for the report, or tell where to follow it if it takes long."""
    job = await client.submit("reports", order)
    try:
        return JSONResponse(await job.result(_PATIENCE_S))
    except ResultTimeout:
        return _accepted(job)
    except JobFailed as failed:
        return JSONResponse({"job": job.id, "error": failed.error.message}, status_code=422)


@router.get("/{job}/events")
async def follow(job: str, client: Connected) -> StreamingResponse:
    """Stream what happens to a job, as server-sent events, until its end."""
    return StreamingResponse(_stream(client.job(job)), media_type="text/event-stream")


@router.delete("/{job}", status_code=202)
async def cancel(job: str, client: Connected) -> None:
    """Ask for a job to be cancelled."""
    await client.cancel(job)


def _accepted(job: Job) -> Response:
    headers = {"Location": f"/reports/{job.id}/events"}
    return JSONResponse({"job": job.id}, status_code=202, headers=headers)


async def _stream(job: Job) -> AsyncIterator[bytes]:
    async for event in job.events():
        told = {"actor": event.actor, "fraction": event.fraction, "message": event.message}
        if event.error is not None:
            told["error"] = event.error.message
        if event.kind == "succeeded":
            told["result"] = await job.result()
        yield b"event: %s\ndata: %s\n\n" % (event.kind.encode(), json.encode(told))


service = create(os.environ.get("REPORTS_TRANSPORT", "memory://reports"))
