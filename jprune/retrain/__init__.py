"""Retraining: optax loops over the parameters that a pattern picks."""

from jprune.retrain.batches import batch_indices
from jprune.retrain.checkpoint import Checkpoints
from jprune.retrain.distill import distillation
from jprune.retrain.history import read_history
from jprune.retrain.kinds import KINDS, Kind, trainable
from jprune.retrain.loop import Trained, train
from jprune.retrain.optimizer import AdamW, adamw, schedule
from jprune.retrain.settings import TrainSettings
from jprune.retrain.split import ADAPTERS, join, split
from jprune.retrain.step import Batch, Metrics, TrainState, gradients, next_token_loss, train_step
from jprune.retrain.tokenizer import save_tokenizer, train_tokenizer

__all__ = [
    "ADAPTERS",
    "AdamW",
    "Batch",
    "KINDS",
    "Checkpoints",
    "Kind",
    "Metrics",
    "TrainSettings",
    "TrainState",
    "Trained",
    "adamw",
    "batch_indices",
    "distillation",
    "gradients",
    "join",
    "next_token_loss",
    "read_history",
    "save_tokenizer",
    "schedule",
    "split",
    "train",
    "train_step",
    "train_tokenizer",
    "trainable",
]
