from __future__ import annotations

import json

import pytest

from bnkit.cli.main import main
from bnkit.kernels.compilation import warm_up
from bnkit.kernels.compilation.warm_up import WarmUpResult


@pytest.mark.parametrize(
    ("options", "errors", "status", "text"),
    [
        ([], {}, 0, "2 of 2 kinds of calls have their loops compiled on this machine"),
        ([], {1: "LoweringError: no"}, 1, "not compiled: recompute, float32, contiguous: LoweringError: no"),
        (["--all", "-q"], {0: "no"}, 1, "1 of 2 kinds"),
    ],
)
def test_it_says_what_is_compiled(options, errors, status, text, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    seen = []

    def compiled(requests, on_done):
        requests = list(requests)
        seen.append(len(requests))
        chosen = [requests[0], requests[-1]]
        for request in chosen:
            on_done(request)
        return [WarmUpResult(request, errors.get(index, "")) for index, request in enumerate(chosen)]

    monkeypatch.setattr(warm_up, "warm_up", compiled)
    with pytest.raises(SystemExit) as end:
        main(["warm-up", *options])
    assert (end.value.code, seen) == (status, [len(warm_up.usual_requests(everything="--all" in options))])
    assert text in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["warm-up", "--json", *options])
    assert [entry["error"] for entry in json.loads(capsys.readouterr().out)] == [errors.get(i, "") for i in range(2)]
