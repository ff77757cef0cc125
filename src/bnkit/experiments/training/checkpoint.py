"""Files of a run besides its record: the checkpoint to resume from, and the final weights."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from bnkit.errors import RecordError
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.run_epochs_file import Epoch
from bnkit.experiments.training.training_loop import Training
from bnkit.model.save import tensors_as_bytes

_CHECKPOINT = "checkpoint.pt"
_WEIGHTS = "weights.safetensors"
_DIGEST_SIZE = hashlib.sha256().digest_size


def save_checkpoint(folder: Path, training: Training, epochs: list[Epoch]) -> None:
    """Atomically replace the checkpoint with the state of ``training`` after ``epochs``.

    It includes the epochs, so that a record that lost its last line can be restored.
    """
    content = {
        "epochs": [asdict(epoch) for epoch in epochs],
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict() if training.schedule else None,
    }
    # Through memory, because torch's errors do not distinguish a full disk from other causes by type.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A checksum after torch's file, which allows trailing data: torch does not detect a changed byte of a tensor.
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    atomic_files.replace(folder / _CHECKPOINT, buffer.getbuffer())


def load_checkpoint(folder: Path, training: Training) -> list[Epoch]:
    """Restore ``training`` from the checkpoint, if there is one, and return the epochs up to there.

    Raises:
        UnreadableCheckpointError: If it cannot be read, or belongs to another network.
    """
    path = folder / _CHECKPOINT
    if not path.is_file():
        return []
    device = next((parameter.device for parameter in training.model.parameters()), torch.device("cpu"))
    try:
        whole = path.read_bytes()
        if hashlib.sha256(whole[:-_DIGEST_SIZE]).digest() != whole[-_DIGEST_SIZE:]:
            raise ValueError("its checksum does not match")
        content: dict[str, Any] = torch.load(io.BytesIO(whole), map_location=device, weights_only=True)
        epochs = [Epoch(**entry) for entry in content["epochs"]]
        training.model.load_state_dict(content["model"])
        training.optimizer.load_state_dict(content["optimizer"])
        if training.schedule is not None:
            training.schedule.load_state_dict(content["schedule"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise UnreadableCheckpointError(f"{path} cannot be read ({type(error).__name__})") from error
    return epochs


class UnreadableCheckpointError(RecordError):
    """A checkpoint that cannot be read: the run starts again."""


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint, if there is one."""
    for name in (_CHECKPOINT, f".{_CHECKPOINT}.new"):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise atomic_files.UnwritableError.of(folder / name, error) from error


def save_weights(folder: Path, model: nn.Module, name: str = _WEIGHTS) -> None:
    """Write the parameters and buffers of ``model`` as safetensors, atomically."""
    atomic_files.replace(folder / name, tensors_as_bytes(model))


def weights_after(epoch: int) -> str:
    """The name of the file with the weights after ``epoch``, if checkpoints are kept."""
    return f"epoch-{epoch:04}.safetensors"


def load_weights(folder: Path, model: nn.Module, name: str = _WEIGHTS) -> None:
    """Load the file of ``save_weights`` into ``model``, on the model's device.

    Raises:
        RecordError: If there are no weights, or they belong to another network.
    """
    path = folder / name
    if not path.is_file():
        expected = "the weights of a finished run" if name == _WEIGHTS else "an epoch of a run with `keep_checkpoints`"
        raise RecordError(f"{path} does not exist; expected {expected}")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors' error class derives from Exception
        raise RecordError(f"{path} does not fit the network ({type(error).__name__}: {error})") from error
