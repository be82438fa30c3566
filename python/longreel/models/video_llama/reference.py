"""The reference path: the Q-Formers of `Branches` by transformers, in the released order of operations."""

import copy

from torch import nn

from longreel.models.published_qformer import PublishedQFormer
from longreel.models.video_llama.branches import Branches
from longreel.nn import QFormer


def published(adapter: Branches) -> Branches:
    """`adapter` with its own weights, of which nothing is copied, and transformers' Q-Formers."""
    twin = copy.copy(adapter)
    twin._modules = dict(adapter._modules)
    for name, module in adapter._modules.items():
        if isinstance(module, nn.ModuleDict):
            qformer = module["bert"]
            assert isinstance(qformer, QFormer)
            twin._modules[name] = nn.ModuleDict({"bert": PublishedQFormer(qformer).train(qformer.training)})
    return twin
