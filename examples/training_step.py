"""A step of training through a patched model: the gradients are those of the plain one.

python examples/training_step.py
"""

import torch
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

import longreel

size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlavaNextVideoConfig(
    vision_config={"model_type": "clip_vision_model", **size, "image_size": 28, "patch_size": 7},
    text_config={"model_type": "llama", **size, "vocab_size": 100, "pad_token_id": 0},
    image_token_index=97, video_token_index=98, image_seq_length=16, video_seq_length=4,
)  # fmt: skip
torch.manual_seed(0)
model = LlavaNextVideoForConditionalGeneration._from_config(config, attn_implementation={"text_config": "longreel"})
model.train()
longreel.patch(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
ids = torch.cat([torch.full((1, 3 * 4), 98), torch.randint(3, 90, (1, 6))], dim=1)
for step in range(3):
    loss = model(input_ids=ids, pixel_values_videos=torch.randn(1, 3, 3, 28, 28), labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
longreel.unpatch(model)
