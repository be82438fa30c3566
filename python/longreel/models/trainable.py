"""What a system's model shares with transformers' training loop."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel


class Trainable:
    """What transformers' Trainer asks of a model, answered by the language model inside."""

    language: PreTrainedModel

    @property
    def config(self) -> PreTrainedConfig:
        return self.language.config

    def activation_checkpointing_enable(self, **options: Any) -> None:
        self.language.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.language.gradient_checkpointing_enable(**options)
