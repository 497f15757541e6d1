"""The runtime: a worker takes messages from the queues of its actors and handles them."""

from asyafw.worker._worker import Lifespan, Setup, Worker

__all__ = ["Lifespan", "Setup", "Worker"]
