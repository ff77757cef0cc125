from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnkit.errors import SettingsError
from bnkit.kernels.compilation import warm_up
from bnkit.kernels.compilation.compile_request import CompileRequest, request_from
from bnkit.kernels.cpu import launch

ACTIVATIONS = [None, "relu", "leaky_relu", "sigmoid", "silu", "tanh", "gelu"]
shapes = st.tuples(st.integers(2, 70), st.sampled_from([1, 3, 8, 64, 260]), st.sampled_from([1, 4, 8, 24, 33]))
requests = st.builds(
    lambda shape, purpose, kind, contiguous, activation, residual, mask: CompileRequest(
        purpose, (*shape, shape[-1]), kind, contiguous or mask or purpose == "moments", activation, residual, mask and purpose == "layer",
    ),
    shapes, st.sampled_from(["layer", "sync", "moments"]), st.sampled_from(["float32", "float64", "bfloat16"]), st.booleans(),
    st.sampled_from(ACTIVATIONS), st.booleans(), st.booleans(),
)  # fmt: skip


def _loops_of(request, monkeypatch):
    """The loops that the call asks for, none of which is compiled or run."""
    asked = set()

    def recorded(name, variant):
        asked.add((name, variant))
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(launch, "plane_loop", recorded)
        patch.setattr(launch, "row_loop", recorded)
        patch.setattr(launch, "run", lambda *_: 0)
        launch._cached_loop_call.cache_clear()
        warm_up._run(request)
    launch._cached_loop_call.cache_clear()
    return asked


@settings(max_examples=60, deadline=None)
@given(requests)
def test_fewer_examples_of_the_same_name_take_the_same_loops(request_):
    with pytest.MonkeyPatch.context() as monkeypatch:
        smallest = request_.smallest
        assert (smallest.name, smallest.shape[1:]) == (request_.name, request_.shape[1:])
        assert smallest.shape[0] <= request_.shape[0]
        whole = request_._replace(shape=request_.shape)
        monkeypatch.setattr(CompileRequest, "smallest", property(lambda self: self))
        assert _loops_of(smallest, monkeypatch) == _loops_of(whole, monkeypatch)


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"shape": (64, 16, 32, 32)}, False),
        ({"shape": (100, 3, 40, 40)}, False),
        ({"shape": (512, 64, 32, 32)}, True),  # past the caches
        ({"shape": (1, 16, 24, 24)}, True),  # few values: in float64
        ({"shape": (64, 16, 8, 8)}, True),  # by rows
        ({"kind": "float64"}, True),
        ({"is_contiguous": False}, True),
        ({"activation": "silu"}, True),
        ({"has_residual": True}, True),
        ({"has_mask": True}, True),
        ({"purpose": "sync"}, True),
    ],
)
def test_a_name_stands_for_loops(change, is_other):
    request = CompileRequest("layer", (32, 16, 32, 32), "float32", True, "relu")
    assert (request._replace(**change).name != request.name) is is_other


@given(requests)
def test_what_is_written_is_read_again(request_):
    assert request_from(json.loads(json.dumps(request_._asdict()))) == request_
    assert "/" not in request_.name and request_.dtype in (torch.float32, torch.float64, torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "int8"},
        {"shape": [4]},
        {"shape": [0, 4]},
        {"shape": None},
        {"purpose": "../../x"},
        {"activation": "exec"},
        {"other": 1},
    ],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(SettingsError, match="expected the fields of a CompileRequest"):
        request_from({**CompileRequest("layer", (8, 4), "float32")._asdict(), **change})
