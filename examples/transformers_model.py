"""A model of transformers: its decoder's attention by name, and what has no hook by a patch.

python examples/transformers_model.py [FOLDER]

FOLDER holds an InstructBLIP-Video checkpoint; without one the model is tiny and its weights are random.
"""

import sys

import torch
from transformers import InstructBlipVideoConfig, InstructBlipVideoForConditionalGeneration, LlamaConfig

import longreel

size = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
tower = {**size, "image_size": 28, "patch_size": 7}
qformer = {**size, "encoder_hidden_size": 64, "vocab_size": 99}
words = LlamaConfig(**size, vocab_size=99, pad_token_id=0, bos_token_id=1, eos_token_id=None)
tiny = InstructBlipVideoConfig(
    vision_config=tower,
    qformer_config=qformer,
    initializer_range=0.2,
    text_config=words.to_dict(),
    num_query_tokens=4,
    video_token_index=98,
)
attention = {"text_config": "longreel"}
torch.manual_seed(0)
if sys.argv[1:]:
    model = InstructBlipVideoForConditionalGeneration.from_pretrained(sys.argv[1], attn_implementation=attention)
else:
    model = InstructBlipVideoForConditionalGeneration._from_config(tiny, attn_implementation=attention)
model.eval()
frames, side = 4, model.config.vision_config.image_size
placeholders = torch.full((1, frames * model.config.num_query_tokens), model.config.video_token_index)
inputs = {
    "input_ids": torch.cat([placeholders, torch.tensor([[5, 6, 7]])], dim=1),
    "qformer_input_ids": torch.tensor([[5, 6, 7]]),
    "pixel_values": torch.randn(1, frames, 3, side, side),
}
with torch.no_grad():
    plain = model(**inputs).logits
    with longreel.patch(model) as report:
        patched = model(**inputs).logits
        print(report)
apart = (patched - plain).abs().max() / plain.abs().max()
print(f"largest difference of the logits, relative to the largest: {apart.item():.1e}")
