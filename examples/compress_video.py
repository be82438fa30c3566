import torch
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

import longreel

# Tiny, with random weights: from_pretrained takes the same attn_implementation.
size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlavaNextVideoConfig(
    vision_config={"model_type": "clip_vision_model", **size, "image_size": 28, "patch_size": 7},
    text_config={"model_type": "llama", **size, "vocab_size": 100, "pad_token_id": 0, "eos_token_id": None},
    image_token_index=97, video_token_index=98, image_seq_length=16, video_seq_length=4,
)  # fmt: skip
model = LlavaNextVideoForConditionalGeneration._from_config(config, attn_implementation={"text_config": "longreel"})
# As a processor gives them: 12 frames of 4 tokens, then a question of 6.
ids = torch.cat([torch.full((1, 48), 98), torch.randint(3, 90, (1, 6))], dim=1)
inputs = {"input_ids": ids, "pixel_values_videos": torch.randn(1, 12, 3, 28, 28)}
short = longreel.compress_video(model.eval(), inputs, method="context", keep=0.25)
print(ids.shape[1], "tokens become", short["input_ids"].shape[1])
print(model.generate(**short, max_new_tokens=4, do_sample=False).shape)
