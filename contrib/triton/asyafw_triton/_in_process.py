"""A torch module as a model in this very process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import anyio.to_thread

from asyafw.exceptions import ConfigurationError, MissingExtra
from asyafw.model import Array, TensorSpec, check_tensors, mismatch

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["InProcessModel"]

P = ParamSpec("P")
R = TypeVar("R")


class InProcessModel:
    """Runs a torch module in a thread of its own, one call at a time, in the order of the calls.

    `module` is a module or, better, a function that makes one, which runs in that thread when the
    model is opened. The module is called with one tensor for each of `inputs`, in their order,
    and returns one for each of `outputs`: the tensor itself where there is one, else a sequence.
    Arrays are copied on their way in, so that a module may work in place.

    A call that is cancelled while it waits never runs.
    One that is running goes on to its end, for a thread cannot be stopped; its result is dropped,
    and the next call begins thereafter.
    """

    def __init__(
        self,
        module: "Module | Callable[[], Module]",
        *,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.device = device
        self._source = module
        self._module: Any = None
        self._thread: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        """Load the module.

        Raises:
            MissingExtra: torch is not installed.
            ConfigurationError: the model is open already.
        """
        if self._thread is not None:
            raise ConfigurationError(f"model {self.name!r} is open already")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{self.name}")
        try:
            self._module = await self._in_thread(self._load)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Wait for the calls in hand, unless cancelled, and forget the module."""
        thread, self._thread, self._module = self._thread, None, None
        if thread is not None:
            thread.shutdown(wait=False)
            await anyio.to_thread.run_sync(thread.shutdown, abandon_on_cancel=True)

    async def infer(self, tensors: Mapping[str, Array], /) -> dict[str, Array]:
        """Run the module on `tensors`, numpy arrays by name.

        Raises:
            Reject: the tensors are not those of `inputs`.
            ConfigurationError: the model is not open, or its module gives not what `outputs` says.
        """
        check_tensors(self.name, self.inputs, tensors)
        arrays = [tensors[spec.name] for spec in self.inputs]
        return await self._in_thread(self._run, self._module, arrays)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._thread is None:
            raise ConfigurationError(f"model {self.name!r} is not open: use `async with`")
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))

    def _load(self) -> Any:
        torch = _torch()
        source = self._source
        module: Any = source if isinstance(source, torch.nn.Module) else source()
        return module.to(self.device).eval()

    def _run(self, module: Any, arrays: Sequence[Array]) -> dict[str, Array]:
        import numpy as np

        torch = _torch()
        with torch.inference_mode():
            given = [torch.from_numpy(np.array(array)).to(self.device) for array in arrays]
            made = self._named(module(*given))
            results = {name: tensor.cpu().numpy() for name, tensor in made.items()}
        problem = mismatch(self.outputs, results)
        if problem is not None:
            raise ConfigurationError(f"model {self.name!r} gave the wrong output: {problem}")
        return results

    def _named(self, made: Any) -> dict[str, Any]:
        names = [spec.name for spec in self.outputs]
        tensors: Sequence[Any] = [made] if len(names) == 1 else list(made)
        if len(tensors) != len(names):
            raise ConfigurationError(
                f"model {self.name!r} gave {len(tensors)} outputs; expected {', '.join(names)}"
            )
        return dict(zip(names, tensors, strict=True))


def _torch() -> Any:
    """Import torch where it is needed, for it takes seconds."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "a model in this process") from error
    return torch
