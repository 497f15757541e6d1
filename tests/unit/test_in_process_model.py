import subprocess
import sys
import threading
from collections.abc import Iterator

import anyio
import anyio.to_thread
import numpy as np
import pytest
import torch
from asyafw_triton import InProcessModel
from torch import Tensor, nn

from asyafw.exceptions import ConfigurationError, Reject
from asyafw.model import Model, TensorSpec

pytestmark = pytest.mark.anyio

X = TensorSpec("x", "float32", (None,))
Y = TensorSpec("y", "float32", (None,))


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Watched(nn.Module):
    """Waits in each call until it is let go, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.calls: list[float] = []
        self.running = 0
        self.most_running = 0

    def forward(self, x: Tensor) -> Tensor:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.calls.append(float(x[0]))
        self.entered.release()
        assert self.let_go.acquire(timeout=10)
        self.running -= 1
        return x


@pytest.fixture
def watched() -> Iterator[Watched]:
    module = Watched()
    yield module
    module.let_go.release(100)


def model_of(module: nn.Module, outputs: tuple[TensorSpec, ...] = (Y,)) -> InProcessModel:
    return InProcessModel(module, name="m", inputs=[X], outputs=outputs)


def vector(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


async def entered(module: Watched) -> None:
    with anyio.fail_after(10):
        assert await anyio.to_thread.run_sync(module.entered.acquire)


async def test_named_arrays_go_in_and_come_out() -> None:
    model: Model
    async with model_of(Double()) as model:
        result = await model.infer({"x": vector(1, 2)})

    assert list(result) == ["y"]
    assert result["y"].dtype == np.float32
    assert result["y"].tolist() == [2, 4]


async def test_what_is_given_stays_as_it_was() -> None:
    given = vector(1, 2, 3)
    given.flags.writeable = False

    async with model_of(Double()) as model:
        reversed_ = await model.infer({"x": given[::-1]})

    assert given.tolist() == [1, 2, 3]
    assert reversed_["y"].tolist() == [6, 4, 2]


async def test_inputs_are_given_in_the_order_of_their_specs() -> None:
    class Subtract(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            return left - right, right

    specs = [TensorSpec(name, "float32", (1,)) for name in ("left", "right")]
    async with InProcessModel(Subtract(), name="m", inputs=specs, outputs=[Y, X]) as model:
        result = await model.infer({"right": vector(1), "left": vector(5)})

    assert result == {"y": vector(4), "x": vector(1)}


async def test_a_module_is_made_in_the_thread_that_runs_it() -> None:
    threads: list[threading.Thread] = []

    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            threads.append(threading.current_thread())

        def forward(self, x: Tensor) -> Tensor:
            threads.append(threading.current_thread())
            assert torch.is_inference_mode_enabled()
            assert not self.training
            return x

    async with InProcessModel(Noted, name="m", inputs=[X], outputs=[Y]) as model:
        await model.infer({"x": vector(1)})

    made, ran = threads
    assert made is ran
    assert made is not threading.current_thread()


async def test_wrong_tensors_are_rejected_before_the_module_runs(watched: Watched) -> None:
    async with model_of(watched) as model:
        with pytest.raises(Reject, match=r"tensor 'x' is float64\[1\]; expected float32\[any\]"):
            await model.infer({"x": np.zeros(1)})

    assert watched.calls == []


async def test_one_call_runs_at_a_time_in_order(watched: Watched) -> None:
    results: dict[float, float] = {}

    async def call(value: float) -> None:
        results[value] = (await model.infer({"x": vector(value)}))["y"].item()

    watched.let_go.release(3)
    async with model_of(watched) as model, anyio.create_task_group() as tasks:
        for value in (1, 2, 3):
            tasks.start_soon(call, value)

    assert watched.calls == [1, 2, 3]
    assert watched.most_running == 1
    assert results == {1: 1, 2: 2, 3: 3}


async def test_the_loop_goes_on_while_a_module_runs(watched: Watched) -> None:
    async with model_of(watched) as model, anyio.create_task_group() as tasks:
        tasks.start_soon(model.infer, {"x": vector(1)})
        await entered(watched)

        watched.let_go.release()  # by a task of the same loop

    assert watched.calls == [1]


async def test_a_cancelled_call_leaves_the_next_one_whole(watched: Watched) -> None:
    async with model_of(watched) as model:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(model.infer, {"x": vector(1)})
            await entered(watched)
            tasks.cancel_scope.cancel()
        assert watched.running == 1

        watched.let_go.release(2)
        result = await model.infer({"x": vector(2)})

    assert result["y"].tolist() == [2]
    assert watched.most_running == 1


async def test_a_call_that_is_cancelled_while_it_waits_never_runs(watched: Watched) -> None:
    async with model_of(watched) as model, anyio.create_task_group() as tasks:
        tasks.start_soon(model.infer, {"x": vector(1)})
        await entered(watched)
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(model.infer, {"x": vector(2)})
            await anyio.wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()

        watched.let_go.release(2)
        await model.infer({"x": vector(3)})

    assert watched.calls == [1, 3]


async def test_closing_waits_for_the_call_that_runs(watched: Watched) -> None:
    async with anyio.create_task_group() as tasks:
        async with model_of(watched) as model:
            tasks.start_soon(model.infer, {"x": vector(1)})
            await entered(watched)
            watched.let_go.release()

        assert watched.running == 0


async def test_an_error_in_the_module_is_the_callers() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ZeroDivisionError(x)

    async with model_of(Broken()) as model:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await model.infer({"x": vector(1)})


async def test_a_module_that_gives_something_else_is_named() -> None:
    async with model_of(Double(), (TensorSpec("y", "uint8", (1,)),)) as model:
        with pytest.raises(ConfigurationError, match="model 'm' gave the wrong output: tensor 'y'"):
            await model.infer({"x": vector(1)})
    async with model_of(Double(), (X, Y)) as model:
        with pytest.raises(ConfigurationError, match="gave 3 outputs; expected x, y"):
            await model.infer({"x": vector(1, 2, 3)})


async def test_a_model_that_cannot_be_loaded_can_be_opened_again() -> None:
    attempts = iter([False, True])

    def load() -> nn.Module:
        if not next(attempts):
            raise ZeroDivisionError
        return Double()

    model = InProcessModel(load, name="m", inputs=[X], outputs=[Y])
    with pytest.raises(ZeroDivisionError):
        await model.__aenter__()

    async with model:
        assert (await model.infer({"x": vector(1)}))["y"].tolist() == [2]


async def test_a_model_is_open_once_and_not_afterwards() -> None:
    async with model_of(Double()) as model:
        with pytest.raises(ConfigurationError, match="open already"):
            await model.__aenter__()

    with pytest.raises(ConfigurationError, match="not open"):
        await model.infer({"x": vector(1)})


ALONE = """
import sys
import anyio
from asyafw.exceptions import MissingExtra
from asyafw_triton import InProcessModel

assert not {"numpy", "torch"} & sys.modules.keys()
sys.modules["torch"] = None  # as where it is not installed

async def main():
    try:
        async with InProcessModel(object, name="m", inputs=[], outputs=[]):
            raise AssertionError
    except MissingExtra as error:
        assert "asyafw[torch]" in str(error)

anyio.run(main)
"""


def test_torch_is_needed_only_by_a_model_that_is_opened() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
