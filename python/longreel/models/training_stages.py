"""What trains in each published stage of training, and what is frozen."""

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from longreel.models import registry

Source = Literal["paper", "released"]


@dataclass(frozen=True)
class TrainingStage:
    """A stage of a system's training, by its number there.

    trains: regular expressions; a parameter trains whose whole name one of them matches, every other is frozen.
    """

    system: str
    stage: int
    source: Source
    trains: tuple[str, ...]

    def set(self, model: nn.Module) -> list[str]:
        """Set `requires_grad` of every parameter of the system's `model`; returns the names of those that train.

        Raises:
            ValueError: nothing of it has such a name: it is another system's model. Nothing is changed.
        """
        pattern = re.compile("|".join(self.trains))
        own = dict(model.named_parameters())
        found = [name for name in own if pattern.fullmatch(name)]
        missed = [each for each in self.trains if not any(re.fullmatch(each, name) for name in own)]
        if missed:
            raise ValueError(f"{type(model).__name__} has no parameter {missed[0]}: the stage is one of {self.system}")
        for name, parameter in own.items():
            parameter.requires_grad_(name in set(found))
        return found


def stages(system: str, stage: int, source: Source = "released") -> TrainingStage:
    """The `stage` (from 1 on) of a system's training, as its paper or its released scripts have it.

    ::

        stages(name, 1).set(model)

    Raises:
        ValueError: no such system, stage or source, or a system whose training is not described.
    """
    described = registry.find(system).training
    if not described:
        raise ValueError(f"{system}: its stages of training are not described here")
    if source not in described:
        raise ValueError(f"source={source!r}: there is {' or '.join(map(repr, described))}")
    own = described[source]
    if not isinstance(stage, int) or not 1 <= stage <= len(own):
        raise ValueError(f"stage={stage!r}: {system} has stages 1 to {len(own)}")
    return TrainingStage(system, stage, source, own[stage - 1])
