"""Every kind of observer that a user may give receives the events."""

from __future__ import annotations

import pytest

import bnkit
from bnkit.experiments.callbacks import Callback, CallbackList, EpochDone, Event, Note
from tests.experiments import tiny_experiment


def test_each_event_names_the_method_that_handles_it():
    assert {event.method for event in Event.__subclasses__()} == {
        *("plan_started", "data_ready", "model_ready", "run_started", "batch_done", "measuring", "epoch_trained"),
        *("epoch_done", "run_ended", "look_taken", "seeds_ended", "report_started", "note"),
    }


class _Epochs:
    def __init__(self):
        self.trained = []

    def epoch_done(self, run, epoch):
        self.trained.append((run.number, epoch.epoch))


class _EpochsOfCallback(_Epochs, Callback):
    pass


class _EpochsOfFunction(_Epochs):
    def __call__(self, event):
        if isinstance(event, EpochDone):
            self.epoch_done(event.run, event.epoch)


@pytest.mark.parametrize("kind", [_Epochs, _EpochsOfCallback, _EpochsOfFunction])
def test_an_observer_is_a_callback_a_function_or_any_object_with_such_methods(tmp_path, kind):
    observer, callback = kind(), kind()
    changes = {"grid": {"lr": [0.1]}, "seeds": 1, "epochs": 2}
    bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        **{**tiny_experiment.EXPERIMENT, **changes},
        out=tmp_path,
        callbacks=[callback],
        observer=observer,
    )
    assert observer.trained == callback.trained == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_list_of_callbacks_sends_an_event_to_each():
    sent = []
    CallbackList(sent.append, sent.append)(Note("once"))
    assert sent == [Note("once"), Note("once")]
