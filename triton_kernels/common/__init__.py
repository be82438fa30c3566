"""What kernels of several ops share: tiles, softmax steps, pooling windows, cards, and the record of a launch."""
