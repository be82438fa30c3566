"""Query-to-patch softmax aggregation and pooling of frames: what compress_frames and context_attention are made of."""
