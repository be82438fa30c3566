import torch

import longreel

patches = torch.randn(256, 256, 1408, dtype=torch.bfloat16)  # [frames, patches, width]
query = torch.randn(32, 1408, dtype=torch.bfloat16)  # [queries, width]
context, content, _ = longreel.compress_frames(query, patches, output_size=4)
print(longreel.explain(longreel.compress_frames, query, patches, output_size=4))
