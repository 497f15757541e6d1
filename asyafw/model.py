"""What an actor asks of a model, wherever it runs.

A model takes named tensors and gives named tensors: numpy arrays, or whatever else
has a ``shape`` and a ``dtype``. This module imports none of the libraries that make them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

from msgspec import Struct

from asyafw.exceptions import Reject

__all__ = ["Array", "Model", "TensorSpec", "check_tensors", "mismatch"]

Array: TypeAlias = Any
"""A numpy array."""


class TensorSpec(Struct, frozen=True):
    """The name, the type and the shape of a tensor.

    `dtype` is numpy's name of the type, such as ``"float32"`` or ``"uint8"``.
    `shape` holds all dimensions, that of the batch included; None or −1 stands for any size.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return _describe(self.dtype, self.shape)


class Model(Protocol):
    """A model, opened with ``async with``: then it is loaded, or connected to."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What it gives."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> bool | None: ...

    async def infer(self, tensors: Mapping[str, Array], /) -> Mapping[str, Array]:
        """Run the model on one tensor for each input; it gives one for each output.

        Raises:
            Reject: `tensors` are not those of `inputs`.
        """
        ...


def check_tensors(model: str, specs: Sequence[TensorSpec], tensors: Mapping[str, Array]) -> None:
    """Check that `tensors` are what the model of that name takes.

    Raises:
        Reject: they are not.
    """
    problem = mismatch(specs, tensors)
    if problem is not None:
        raise Reject(f"model {model!r}: {problem}")


def mismatch(specs: Sequence[TensorSpec], tensors: Mapping[str, Array]) -> str | None:
    """Say how `tensors` differ from `specs`: which tensor, what was expected, what came.

    Gives None where nothing differs.
    """
    expected = {spec.name for spec in specs}
    for name in tensors:
        if name not in expected:
            return f"tensor {name!r} is unknown; it has {', '.join(map(repr, sorted(expected)))}"
    for spec in specs:
        if spec.name not in tensors:
            return f"tensor {spec.name!r} is missing; expected {spec}"
        array = tensors[spec.name]
        if not _fits(spec, array):
            return f"tensor {spec.name!r} is {_describe_array(array)}; expected {spec}"
    return None


def _fits(spec: TensorSpec, array: Array) -> bool:
    shape = getattr(array, "shape", None)
    return (
        shape is not None
        and _dtype_of(array) == spec.dtype
        and len(shape) == len(spec.shape)
        and all(
            _is_any(wanted) or wanted == size
            for wanted, size in zip(spec.shape, shape, strict=True)
        )
    )


def _is_any(size: int | None) -> bool:
    return size is None or size < 0


def _dtype_of(array: Array) -> str:
    dtype = getattr(array, "dtype", None)
    return str(getattr(dtype, "name", dtype))


def _describe_array(array: Array) -> str:
    if not hasattr(array, "shape"):
        return f"no array but {type(array).__name__}"
    return _describe(_dtype_of(array), array.shape)


def _describe(dtype: str, shape: Sequence[int | None]) -> str:
    return f"{dtype}[{', '.join('any' if _is_any(size) else str(size) for size in shape)}]"
