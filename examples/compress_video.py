"""A quarter of the video tokens for a model of transformers; nothing is trained and nothing patched. Random weights here.

python examples/compress_video.py
"""

import torch
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

import longreel

size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlavaNextVideoConfig(
    vision_config={"model_type": "clip_vision_model", **size, "image_size": 28, "patch_size": 7},
    text_config={"model_type": "llama", **size, "vocab_size": 100, "pad_token_id": 0, "eos_token_id": None},
    image_token_index=97, video_token_index=98, image_seq_length=16, video_seq_length=4,
)  # fmt: skip
torch.manual_seed(0)
model = LlavaNextVideoForConditionalGeneration(config).eval()
# As a processor gives them: 12 frames of 4 tokens, then the question.
ids = torch.cat([torch.full((1, 12 * 4), 98), torch.randint(3, 90, (1, 6))], dim=1)
inputs = {"input_ids": ids, "pixel_values_videos": torch.randn(1, 12, 3, 28, 28)}
short = longreel.compress_video(model, inputs, method="context", keep=0.25)
print(f"{ids.shape[1]} tokens become {short['input_ids'].shape[1]}")
print("answer:", model.generate(**short, max_new_tokens=4, do_sample=False)[0, short["input_ids"].shape[1] :].tolist())
