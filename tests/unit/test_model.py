import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from asyafw.exceptions import Reject
from asyafw.model import TensorSpec, check_tensors, mismatch

IMAGE = TensorSpec("image", "float32", (None, 3, None, -1))
SIGMA = TensorSpec("sigma", "uint8", (1,))
RIGHT = {"image": np.zeros((2, 3, 5, 7), np.float32), "sigma": np.zeros(1, np.uint8)}


def test_tensors_that_fit_are_accepted() -> None:
    check_tensors("denoise", [IMAGE, SIGMA], RIGHT)

    assert mismatch([IMAGE, SIGMA], RIGHT) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": np.zeros((2, 3, 5, 7))},
            "tensor 'image' is float64[2, 3, 5, 7]; expected float32[any, 3, any, any]",
        ),
        (
            {"image": np.zeros((2, 1, 5, 7), np.float32)},
            "tensor 'image' is float32[2, 1, 5, 7]; expected float32[any, 3, any, any]",
        ),
        (
            {"image": np.zeros((3, 5, 7), np.float32)},
            "tensor 'image' is float32[3, 5, 7]; expected float32[any, 3, any, any]",
        ),
        ({"sigma": np.zeros((), np.uint8)}, "tensor 'sigma' is uint8[]; expected uint8[1]"),
        ({"sigma": [0]}, "tensor 'sigma' is no array but list; expected uint8[1]"),
        ({"mask": np.zeros(1)}, "tensor 'mask' is unknown; it has 'image', 'sigma'"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Reject) as caught:
        check_tensors("denoise", [IMAGE, SIGMA], RIGHT | change)

    assert str(caught.value) == f"model 'denoise': {message}"


def test_a_missing_tensor_is_refused_by_name() -> None:
    with pytest.raises(Reject, match=r"tensor 'sigma' is missing; expected uint8\[1\]"):
        check_tensors("denoise", [IMAGE, SIGMA], {"image": RIGHT["image"]})


def test_a_spec_shows_its_type_and_shape() -> None:
    assert str(IMAGE) == "float32[any, 3, any, any]"


def test_no_array_library_is_imported() -> None:
    code = "import sys, asyafw.model; assert not {'numpy', 'torch'} & sys.modules.keys()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
