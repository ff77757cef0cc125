"""Plans and records made up from a few numbers, as if something had been trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bnkit.experiments.experiment import (
    DEFAULT_TASK,
    NetworkIdentity,
    ResolvedExperiment,
    TaskIdentity,
    parse_experiment,
)
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records.example_scores import ExampleScores
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.report.results_of_plan import Results

ARMS = ("no_batch_norm", "batch_norm")


def fake_plan(networks=ARMS, task: TaskIdentity = DEFAULT_TASK, **changes) -> Plan:
    content = {"name": "made", "networks": ["two-cnn"], "grid": {"lr": [0.1]}, "seeds": 3, "epochs": 4, **changes}
    settled = ResolvedExperiment(
        threads=1,
        device="cpu",
        data="digest",
        networks=tuple(NetworkIdentity(key=key, identity=f"two-cnn/{key}") for key in networks),
        task=task,
    )
    return plan(parse_experiment(content, "made").model_copy(update={"settled": settled}))


def epoch(number: int, test_accuracy: float | None, **changes) -> Epoch:
    """Two seconds long, 100 examples a second, its loss 1 / its number, and a training accuracy two points above."""
    figures = {
        "epoch": number,
        "loss": 1 / number,
        "accuracy": None if test_accuracy is None else test_accuracy + 0.02,
        "validation_loss": None,
        "validation_accuracy": test_accuracy,
        "test_loss": 1 / number,
        "test_accuracy": test_accuracy,
        "test_accuracy_population": None,
        "gradient_norm": 1.0,
        "epoch_duration": 2.0,
        "run_duration": 2.0 * number,
        "examples_per_second": 100.0,
    }
    return Epoch(**{**figures, **changes})


def finished_record(*test_accuracies: float, **changes) -> Record:
    epochs = [epoch(number, accuracy, **changes) for number, accuracy in enumerate(test_accuracies, start=1)]
    return Record(Status.FINISHED, epochs, {"torch": "2.0", "machine": "a <b>"})


def diverged_record(*test_accuracies: float) -> Record:
    record = finished_record(*test_accuracies)
    record.epochs.append(epoch(len(test_accuracies) + 1, None, loss=None, test_loss=None, accuracy=None))
    record.status = Status.DIVERGED
    return record


def fake_records(planned: Plan, outcome: Callable[[Run], Record | None]) -> Mapping[str, Record]:
    """Each run's record as ``outcome`` says; none for None."""
    return {run.run_id: record for run in planned if (record := outcome(run)) is not None}


def fake_results(planned: Plan, outcome: Callable[[Run], Record | None]) -> Results:
    """The plan, and what ``outcome`` says of each of its runs."""
    return Results(planned, fake_records(planned, outcome))


def scored_record(scores: np.ndarray, population: np.ndarray | None = None, **changes) -> Record:
    """A record that knows what each test example scored, right or wrong or a share; its accuracy is the mean."""
    record = finished_record(0.1, float(scores.mean()), test_answers=len(scores), test_scores="digest", **changes)
    record.example_scores = ExampleScores(scores, population)  # in place of the file
    return record
