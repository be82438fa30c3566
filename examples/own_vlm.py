"""A model of your own: two tokens a frame, one that the question chose and one average, and a step of training.

python examples/own_vlm.py
"""

import torch
from torch import nn

import longreel


class TwoTokens(nn.Module):
    """text [M, Dq] and patches [F, N, C] -> [F, 2, H] for a language model."""

    def __init__(self, text: int, vision: int, llm: int) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(text, vision), nn.Linear(vision, llm)

    def forward(self, text: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        context, content, _ = longreel.compress_frames(self.query(text), patches, mode="mean")
        return self.out(torch.cat([context[:, None], content], dim=1))


model = TwoTokens(64, 96, 128)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
text, patches, wanted = torch.randn(8, 64), torch.randn(12, 49, 96), torch.randn(12, 2, 128)
for step in range(3):
    loss = (model(text, patches) - wanted).pow(2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
