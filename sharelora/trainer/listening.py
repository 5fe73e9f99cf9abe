"""The Trainer, changed so that signals end a run, or save it, between two updates."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch

from sharelora.support.errors import Stopped
from sharelora.trainer.exact import ExactTrainer
from sharelora.trainer.signals import Requests, stopped
from sharelora.trainer.state import random_state, set_random_state

logger = logging.getLogger(__name__)


class ListeningTrainer(ExactTrainer):
    """The Trainer with an ear for signals.

    Attributes:
        requests: what signals have asked for (`sharelora.trainer.signals.listening`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requests = Requests()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save as the Trainer does, and do what a signal asks for.

        Raises:
            Stopped: a signal asked for it; a checkpoint has been written.
        """
        save, self.requests.save = self.requests.save, False
        stop, save = self._agree(self.requests.stop), bool(self._agree(save))
        if stop:  # an evaluation may take hours
            self.moment.unevaluated, self.control.should_evaluate = self.control.should_evaluate, False
        self.control.should_save = self.control.should_save or bool(stop) or save
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except Stopped:
            self.control.should_evaluate = False
            self._save_checkpoint(None, None)
            raise self._saved_and_stopped(self.requests.stop) from None
        if save:
            logger.info("SIGUSR1: saved checkpoint-%d", self.state.global_step)
        self.leave()

    def _agree(self, value: int) -> int:
        """Return the largest value of all processes, so that all of them do the same."""
        if self.args.world_size == 1:
            return int(value)
        return int(self.accelerator.gather(torch.tensor([int(value)], device=self.args.device)).max())

    def leave(self) -> None:
        """End the run with a checkpoint if a signal asked any process for it.

        Raises:
            Stopped: it did.
        """
        stop = self._agree(self.requests.stop)
        if not stop:
            return
        if self.moment.saved != self.state.global_step:
            self._save_checkpoint(None, None)
        raise self._saved_and_stopped(stop)

    def _saved_and_stopped(self, stop: int) -> Stopped:
        path = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        return stopped(stop, f"{path} has everything; start the same command again to go on")

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; a signal breaks it off, and then it has never begun.

        Training draws the same random numbers however often it is evaluated.
        """
        before, lines = random_state(), len(self.state.log_history)
        # One process of several that breaks off would leave the others waiting.
        alone = self.args.world_size == 1
        try:
            with self.requests.interruptible() if alone else contextlib.nullcontext():
                found: dict[str, float] = super()._evaluate(*args, **kwargs)
            self.moment.unevaluated = False
            return found
        except Stopped:
            del self.state.log_history[lines:]
            self.moment.unevaluated = True
            raise
        finally:
            set_random_state(before)
