"""Models for actors: behind NVIDIA Triton, or in the process of the worker."""
