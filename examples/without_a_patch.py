"""A model of transformers without a patch: attention by name, and a mask for a video that it has not. Random weights here;
from_pretrained takes the name too.

python examples/without_a_patch.py
"""

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

import longreel  # makes the name known

config = Qwen2Config(
    vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config, attn_implementation="longreel").eval()
ids = torch.randint(3, 99, (1, 40))
print("causal:", model.generate(ids, max_new_tokens=4, do_sample=False)[0, 40:].tolist())
# Two frames of 16 patches and a VoCo token that attends to its frame; 6 words that attend to VoCo tokens. No mask is made.
layout = longreel.VideoLayout.voco(frames=2, vision=16, voco=1, text=6)
with longreel.use_layout(layout):
    print("VoCo:", model(ids).logits[0, -1].topk(4).indices.tolist())
