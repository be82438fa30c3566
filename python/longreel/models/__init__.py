"""The published systems as reference models, built from transformers' towers, Q-Formers and language models."""

from typing import TYPE_CHECKING

from longreel.models._lazy import lazily
from longreel.models.training_stages import TrainingStage, stages

if TYPE_CHECKING:
    from longreel.models.loading import from_pretrained
    from longreel.models.planning import Plan, plan
    from longreel.models.video_memory import Said, VideoMemory

__all__ = ["Plan", "Said", "TrainingStage", "VideoMemory", "from_pretrained", "plan", "stages"]
__getattr__ = lazily(
    __name__, ("Plan", "Said", "VideoMemory", "from_pretrained", "plan"), ("planning", "video_memory", "loading")
)
