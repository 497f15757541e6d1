"""Models for actors: behind NVIDIA Triton, or in the process of the worker."""

from asyafw_triton._in_process import InProcessModel

__all__ = ["InProcessModel"]
