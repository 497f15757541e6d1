"""Photos between two actors: files that are quick to write and keep sixteen bits of each value."""

import os
from pathlib import Path

import numpy as np

from examples.image_enhancement.images import Photo, Pixels

__all__ = ["read", "write"]

_LEVELS = np.float32(65535)


def write(photo: Photo, path: str) -> None:
    """Write a photo, as a whole or not at all."""
    alpha = np.empty(0, np.uint16) if photo.alpha is None else _pack(photo.alpha)
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as opened:
        np.savez(opened, pixels=_pack(photo.pixels), alpha=alpha, grey=np.array(photo.grey))
    temporary.replace(file)


def read(path: str) -> Photo:
    """Read what `write` wrote."""
    with np.load(path) as arrays:
        alpha = _unpack(arrays["alpha"]) if arrays["alpha"].size else None
        return Photo(_unpack(arrays["pixels"]), alpha, bool(arrays["grey"]))


def _pack(values: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.round(np.clip(values, 0, 1) * _LEVELS).astype(np.uint16)


def _unpack(levels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> Pixels:
    return levels.astype(np.float32) / _LEVELS
