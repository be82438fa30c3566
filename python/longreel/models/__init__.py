"""The published systems as reference models, built from transformers' towers, Q-Formers and language models."""

from longreel._transformers import require

require("longreel.models")
