"""Which runs of a folder answer the question of a call: plans alone, nothing is trained."""

from __future__ import annotations

import pytest

from bnkit.experiments.experiment import NetworkIdentity, ResolvedExperiment, TaskIdentity, parse_experiment
from bnkit.experiments.plan import Plan, plan
from bnkit.experiments.records.earlier_compare_calls import CALLS, folder_runs, forget_all, remember

ARMS = ("no_batch_norm", "batch_norm")


def _network(key, architecture="two-cnn"):
    return NetworkIdentity(key=key, identity=f"{architecture}/{key.rpartition('.')[2]}")


_LENET = [_network(key, "lenet") for key in ARMS]


def _call(out, networks=None, names=("two-cnn",), settled=None, **changes):
    """A call into ``out`` that has begun every run."""
    networks = tuple(map(_network, ARMS)) if networks is None else networks
    content = {"name": "n", "networks": list(names), "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 2, **changes}
    facts = {"threads": 1, "device": "cpu", "data": "digest", "networks": networks, **(settled or {})}
    planned = plan(parse_experiment(content, "here").model_copy(update={"settled": ResolvedExperiment(**facts)}))
    text = planned.experiment.to_toml()
    remember(out, text, out / "experiment.toml")
    (out / "experiment.toml").write_text(text)
    for run in planned:
        folder = out / "runs" / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.jsonl").touch()
    return planned


@pytest.fixture
def out(tmp_path):
    (tmp_path / CALLS).mkdir()
    return tmp_path


def _points(found):
    return [(run.network.key, run.settings.lr, run.seed) for run in found.plan]


def test_without_earlier_calls_only_the_plan_counts(out):
    own = _call(out)
    runs = folder_runs(out, own)
    assert runs.plan is own
    assert (runs.earlier, runs.notes) == ({}, ())


def test_other_rates_and_seeds_are_added(out):
    earlier = _call(out, grid={"lr": [0.5]}, seeds=[7])
    own = _call(out)
    runs = folder_runs(out, own)
    assert _points(runs) == [*((key, 0.1, 0) for key in ARMS), *((key, 0.5, 7) for key in ARMS)]
    assert runs.own == {run.run_id for run in own}
    assert {run_id: run for run_id, (_, run) in runs.earlier.items()} == {run.run_id: run for run in earlier}
    assert runs.plan.experiment.grid.lr == (0.1, 0.5)
    assert runs.plan.varying == ("lr",)
    assert runs.notes == ()


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        ({"epochs": 3}, "epochs 3 in place of 2"),
        ({"validation": 0.2}, "validation 0.2 in place of 0.1"),
        ({"drop_last": True}, "drop_last True in place of False"),
        ({"observe": 5}, "observe 5 in place of 0"),
        ({"settled": {"threads": 2}}, "threads 2 in place of 1"),
        ({"settled": {"data": "another"}}, "other data"),
        ({"settled": {"task": TaskIdentity(loss="mse_loss")}}, "another loss, metric, training step or augmentation"),
        ({"networks": _LENET, "names": ["lenet"]}, "network lenet in place of two-cnn"),
        (
            {"networks": _LENET, "names": ["lenet"], "epochs": 3},
            "network lenet in place of two-cnn, epochs 3 in place of 2",
        ),
        ({"networks": _LENET}, "other code or kernel of networks no_batch_norm, batch_norm"),
        (
            {"networks": [NetworkIdentity(key=key, identity=f"two-cnn/{key}", kernel="numba") for key in ARMS]},
            "other code or kernel of networks no_batch_norm, batch_norm",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_another_question_is_named_and_not_mixed(out, earlier, reason):
    _call(out, **earlier)
    own = _call(out)
    runs = folder_runs(out, own)
    assert runs.plan is own
    assert runs.notes == (
        f"The folder holds 2 more runs in answer to another question, not counted here: {reason} (calls/0001.toml).",
    )


def test_another_arm_of_the_architecture_is_added(out):
    _call(out)
    own = _call(out, networks=[_network("group_norm")], arms=["group_norm"])
    assert folder_runs(out, own).plan.networks == ("group_norm", *ARMS)


def test_keys_are_those_of_this_call(out):
    """With two architectures a key begins with its own."""
    _call(out, grid={"lr": [0.5]})
    _call(out, networks=[_network("group_norm")])
    networks = [_network(f"{name}.{key}", name) for name in ("lenet", "two-cnn") for key in ARMS]
    own = _call(out, networks=networks, names=("lenet", "two-cnn"))
    runs = folder_runs(out, own)
    assert [run.network.key for run in runs.plan][4:] == [
        "two-cnn.group_norm",
        "two-cnn.no_batch_norm",
        "two-cnn.batch_norm",
    ]
    assert {run.run_id for run in runs.plan} == runs.own | runs.earlier.keys()


def test_factories_of_dictionaries_are_compared_and_changed_code_is_not(out):
    def networks(**digests):
        return [NetworkIdentity(key=key, identity=f"m.{key}#{digest}/{key}") for key, digest in digests.items()]

    _call(out, networks=networks(a="old", b="same", c="third"), names="abc", seeds=[1])
    own = _call(out, networks=networks(a="new", b="same"), names="ab")
    runs = folder_runs(out, own)
    assert [(run.network.key, run.seed) for run in runs.plan] == [("a", 0), ("b", 0), ("b", 1), ("c", 1)]
    assert (
        "1 more run in answer to another question, not counted here: other code or kernel of network a" in runs.notes[0]
    )


def test_a_setting_without_effect_in_any_call_has_none_in_all(out):
    grid = {"lr": [0.1], "bn_momentum": [0.01, 0.5]}
    _call(out, grid=grid, settled={"ignored": {"no_batch_norm": ("bn_momentum",)}})
    own = _call(out)
    runs = folder_runs(out, own)
    momenta = [(run.network.key, run.settings.bn_momentum) for run in runs.plan]
    assert momenta == [("no_batch_norm", None), ("batch_norm", "default"), ("batch_norm", 0.01), ("batch_norm", 0.5)]
    assert [run.run_id for run in runs.plan][:2] == [run.run_id for run in own]


def test_another_device_is_a_setting(out):
    _call(out, settled={"device": "cuda"})
    runs = folder_runs(out, _call(out))
    assert runs.plan.varying == ("device",)
    assert len({run.run_id for run in runs.plan}) == 4


def test_calls_are_kept_once_in_their_order_and_those_of_earlier_versions_too(out):
    (out / "experiment.toml").write_text("former\n[settled]\n")
    (out / CALLS / "0001.toml").write_text("mine")
    for _ in range(2):
        _call(out)
    _call(out, seeds=2)
    assert [path.name for path in sorted((out / CALLS).iterdir())] == [f"000{n}.toml" for n in range(1, 5)]
    assert (out / CALLS / "0002.toml").read_text() == "former\n[settled]\n"
    assert len(folder_runs(out, _call(out)).plan) == 4  # what cannot be read is passed over
    forget_all(out)
    assert [path.read_text() for path in (out / CALLS).iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("counts", "looks"),
    [
        ((5, 10, 20), (5, 10, 20)),
        ((1, 2, 5), ()),
        ((5, 5), ()),
        ((10, 5), ()),
        ((5, 10, 5), (5, 10)),
        ((2, 3, 4), (3, 4)),
    ],
)
def test_a_folder_says_after_how_many_seeds_one_looked(out, counts, looks):
    for count in counts:
        own = _call(out, seeds=count)
    runs = folder_runs(out, own)
    assert runs.looks == looks
    told = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]} seeds" if looks else ""
    assert (f"Looked at after {told}" in " ".join(runs.notes)) == bool(looks)


def test_looks_at_another_question_do_not_count(out):
    _call(out, seeds=3, epochs=7)
    assert folder_runs(out, _call(out, seeds=5)).looks == ()


def test_a_rule_looked_after_every_pair(out):
    _call(out, seeds=1, until={"max_seeds": 5})
    assert folder_runs(out, _call(out, seeds=6)).looks == (3, 4, 5, 6)


def test_the_answer_of_a_rule_is_that_of_the_runs_it_asked_for(out):
    _call(out, seeds=2)
    own = _call(out, seeds=[7], until={"max_seeds": 3})
    asked = Plan(own.experiment, own.runs[:2])
    runs = folder_runs(out, asked)
    assert runs.plan is asked
    assert "The folder holds 4 more runs of earlier calls, not counted here" in runs.notes[0]
