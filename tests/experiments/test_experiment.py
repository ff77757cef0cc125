from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import parse_experiment, read_experiment, read_recipe, recipes
from bnkit.experiments.run_settings import Settings

SMALL = {"name": "small", "networks": ["lenet"], "grid": {"lr": [0.1]}, "seeds": 2, "epochs": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "here: epoch: unknown key; expected one of name, about"),
        ({"grid": {"learning_rate": 1}}, "grid.learning_rate: unknown key; expected one of lr, batch_size"),
        ({"grid": {}}, "grid: the grid is empty; expected at least lr"),
        ({"grid": {"lr": []}}, "grid.lr: expected at least 1 value, got \\[\\]"),
        ({"grid": {"lr": ["fast"]}}, "grid.lr.0: expected a number, got 'fast'"),
        ({"grid": {"lr": [0.1, -1]}}, "grid.lr.1: expected a number greater than 0, got -1"),
        ({"grid": {"lr": float("nan")}}, "grid.lr.0: expected a finite number"),
        ({"grid": {"lr": True}}, "grid.lr.0: expected a number, got True"),
        ({"grid": {"dropout": 1.0}}, "grid.dropout.0: expected 'default', or a number from 0 to below 1, got 1.0"),
        ({"grid": {"dropout": "often"}}, "grid.dropout.0: expected 'default', or a number"),
        ({"grid": {"batch_size": 1.5}}, "grid.batch_size.0: expected a whole number, got 1.5"),
        ({"grid": {"trainset": "raw"}}, "grid.trainset.0: expected 'normal', 'not_normal' or 'symmetric', got 'raw'"),
        ({"grid": {"device": "tpu"}}, "grid.device.0"),
        ({"grid": 3}, "grid: .*got 3"),
        ({"seeds": 0}, "seeds: expected at least 1 seed, at most 1,000,000, got 0"),
        ({"seeds": [1, 1]}, "seeds: expected each of them once"),
        ({"seeds": []}, "seeds: expected at least one"),
        ({"seeds": True}, "seeds: expected a whole number, or a list of whole numbers, got True"),
        ({"seeds": 1.5}, "seeds: expected a whole number, or a list of whole numbers, got 1.5"),
        ({"epochs": "ten"}, "epochs: expected a whole number, got 'ten'"),
        ({"epochs": 0}, "epochs: expected a number greater than or equal to 1, got 0"),
        ({"validation": 1.0}, "validation: expected a number less than 1"),
        ({"networks": []}, "networks"),
        ({"networks": "lenet"}, "networks: .*got 'lenet'"),
        ({"name": "../outside"}, "name: "),
        ({"show": ["everything"]}, "show.0: expected 'epochs', 'first_layer', 'crossed' or 'losses'"),
    ],
)
def test_what_it_refuses_in_one_line_that_names_the_key(change, message):
    with pytest.raises(SettingsError, match=message) as caught:
        parse_experiment({**SMALL, **change}, "here")
    assert str(caught.value).startswith("here: ")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(SettingsError, match="here: epochs: is missing"):
        parse_experiment({key: value for key, value in SMALL.items() if key != "epochs"}, "here")


def test_a_misspelt_key_is_named_before_the_one_that_is_missing_for_it():
    content = {("epochz" if key == "epochs" else key): value for key, value in SMALL.items() if key != "networks"}
    with pytest.raises(SettingsError, match=r"here: epochz: unknown key; .*did you mean 'epochs'\? \(and 2 more\)"):
        parse_experiment(content, "here")


def test_one_value_is_a_list_of_one():
    experiment = parse_experiment({**SMALL, "grid": {"lr": 1, "optimizer": "adam"}}, "here")
    assert experiment.grid.lr == (1.0,)
    assert experiment.grid.optimizer == ("adam",)
    assert experiment.grid.explicit_keys == ("lr", "optimizer")


def test_the_grid_spans_the_product_of_its_values():
    experiment = parse_experiment({**SMALL, "grid": {"batch_size": [8, 16], "lr": [0.1, 0.2, 0.1]}}, "here")
    assert [(point.lr, point.batch_size) for point in experiment.grid.points()] == [
        (0.1, 8),
        (0.1, 16),
        (0.2, 8),
        (0.2, 16),
    ]
    assert all(isinstance(point, Settings) for point in experiment.grid.points())


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_is_called_as_its_file(name):
    assert parse_experiment(read_recipe(name), name).name == name


@settings(max_examples=50)
@given(
    lrs=st.lists(st.floats(1e-9, 10), min_size=1, max_size=3),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True),
    about=st.text(max_size=30),
)
def test_what_is_written_reads_back_equal(lrs, seeds, about):
    experiment = parse_experiment({**SMALL, "grid": {"lr": lrs}, "seeds": seeds, "about": about}, "here")
    again = parse_experiment(tomllib.loads(experiment.to_toml()), "there")
    assert again == experiment
    assert again.grid.explicit_keys == experiment.grid.explicit_keys


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"lr = [", "is not TOML"), (b"\xff\xfe", "is not UTF-8 text"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_experiment(path)
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(
        SettingsError, match="no recipe is called 'x'; expected one of depth, lenet-fashion-mnist, mlp-mnist"
    ):
        read_recipe("x")
