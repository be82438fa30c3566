"""The published systems as reference models, built from transformers' towers, Q-Formers and language models."""
