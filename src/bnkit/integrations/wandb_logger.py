"""Logs figures to W&B, where group and config identify network, settings and seed. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bnkit.console import stderr_console
from bnkit.experiments.plan import Run
from bnkit.experiments.records.run_epochs_file import Epoch, Status
from bnkit.integrations.extras import require_extra
from bnkit.integrations.run_logger import RunLogger, ServiceRun, figures, flat_settings


class WandbLogger(RunLogger):
    """One W&B run for each run of the plan: settings as its config, figures by epoch.

    W&B's environment variables apply: ``WANDB_PROJECT`` (otherwise the name of the experiment), ``WANDB_ENTITY``, ``WANDB_DIR``
    (otherwise ``<folder>/wandb``), ``WANDB_MODE``. Without a login, runs are written offline.

    Args:
        folder: The results folder.

    Raises:
        SettingsError: wandb is not installed.
    """

    name = "wandb"
    title = "W&B"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        require_extra(self.title, "wandb", "wandb")
        self._folder = folder
        self._mode: Any = None

    def open_run(self, run: Run, known_id: str | None) -> ServiceRun:
        import wandb

        if self._mode is None:
            self._mode = self._find_mode(wandb)
        return _WandbRun(
            wandb.init(
                project=os.environ.get("WANDB_PROJECT") or self.experiment,
                id=known_id,
                resume="allow" if known_id else None,
                name=self.title_of(run),
                group=self.group(run),
                job_type=run.network.key,
                tags=[self.experiment],
                config=flat_settings(run),
                dir=os.environ.get("WANDB_DIR") or str(self._folder),
                mode=self._mode,
                reinit="create_new",  # workers train several at once
                settings=wandb.Settings(silent=True, console="off"),
            )
        )

    def _find_mode(self, wandb: Any) -> str:
        """``WANDB_MODE``, or else online if logged in: a prompt for an API key would block the training."""
        mode = os.environ.get("WANDB_MODE")
        if mode:
            return mode
        if wandb.login(prompt=False, verify=False):
            return "online"
        where = Path(os.environ.get("WANDB_DIR") or self._folder) / "wandb"
        stderr_console().print_sentences(
            f"W&B: not logged in, so runs are written to {where}; after `wandb login`, `wandb sync {where}/offline-run-*` "
            "uploads them"
        )
        return "offline"


class _WandbRun(ServiceRun):
    def __init__(self, run: Any) -> None:
        self._run, self.id = run, run.id

    def log(self, epoch: Epoch) -> None:
        self._run.log({"epoch": epoch.epoch, **figures(epoch)}, step=epoch.epoch)

    def end(self, status: Status) -> None:
        self._run.summary["status"] = status.value
        self._run.finish(exit_code=1 if status is Status.FAILED else 0)
