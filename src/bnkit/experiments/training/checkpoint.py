"""What a run writes besides its record: the checkpoint to resume from, and the weights at the end."""

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
from bnkit.experiments.records.record import Epoch
from bnkit.experiments.training.loop import Training
from bnkit.model.save import tensors_as_bytes

_CHECKPOINT = "checkpoint.pt"
_WEIGHTS = "weights.safetensors"
_DIGEST_SIZE = hashlib.sha256().digest_size


def save_checkpoint(folder: Path, training: Training, epochs: list[Epoch]) -> None:
    """Replace the checkpoint by the state of ``training`` after ``epochs``, whole or not at all.

    It holds the epochs too, so that a record that lost its last line can be restored.
    """
    content = {
        "epochs": [asdict(epoch) for epoch in epochs],
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict() if training.schedule else None,
    }
    # Through memory: only the text of torch's errors tells a full disk from another cause.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # After torch's file, which may be followed by anything: torch itself does not notice a changed byte of a tensor.
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    atomic_files.replace(folder / _CHECKPOINT, buffer.getbuffer())


def load_checkpoint(folder: Path, training: Training) -> list[Epoch]:
    """Restore ``training`` from the checkpoint, if there is one, and return the epochs up to there.

    Raises:
        UnreadableCheckpointError: It cannot be read, or belongs to another network.
    """
    path = folder / _CHECKPOINT
    if not path.is_file():
        return []
    device = next((parameter.device for parameter in training.model.parameters()), torch.device("cpu"))
    try:
        whole = path.read_bytes()
        if hashlib.sha256(whole[:-_DIGEST_SIZE]).digest() != whole[-_DIGEST_SIZE:]:
            raise ValueError("it is not what was written")
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
    """Write the parameters and buffers of ``model`` as safetensors, whole or not at all."""
    atomic_files.replace(folder / name, tensors_as_bytes(model))


def weights_after(epoch: int) -> str:
    """The name of the file with the weights after ``epoch``, where checkpoints are kept."""
    return f"epoch-{epoch:04}.safetensors"


def load_weights(folder: Path, model: nn.Module, name: str = _WEIGHTS) -> None:
    """Load what ``save_weights`` wrote into ``model``, on the device where it is.

    Raises:
        RecordError: There are no weights, or they are another network's.
    """
    path = folder / name
    if not path.is_file():
        expected = "the weights of a finished run" if name == _WEIGHTS else "an epoch of a run with `keep_checkpoints`"
        raise RecordError(f"{path} is not there; expected {expected}")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors raises an error class of its own that derives from Exception
        raise RecordError(f"{path} does not fit the network ({type(error).__name__}: {error})") from error
