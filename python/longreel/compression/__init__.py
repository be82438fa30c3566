"""Fewer video tokens for models that were not trained for it: which stay, and the inputs of a model without the others."""
