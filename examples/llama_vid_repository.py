"""In LLaMA-VID's own repository and environment: its model, loaded by its own code, with longreel inside.

python examples/llama_vid_repository.py CHECKPOINT
"""

import sys

import torch
from llamavid.model.builder import load_pretrained_model

import longreel

folder = sys.argv[1]
tokenizer, model, image_processor, context_len = load_pretrained_model(folder, None, folder.rstrip("/").split("/")[-1])
report = longreel.patch(model)
print(report)

# A minute of extracted features, [frames, 1 + patches, width]: the tokens that go into the language model.
weight = model.get_model().vlm_att_key_projector.weight
features = torch.randn(60, 257, weight.shape[1], dtype=weight.dtype, device=weight.device)
with torch.no_grad():
    tokens = model.encode_images(features, prompts=[["what happens?"]], image_counts=[60], long_video=True)
print(
    f"{tokens[0].shape[1]} tokens of {tokens[0].shape[2]} for 60 frames; by its own methods: {report.aside or 'nothing'}"
)
