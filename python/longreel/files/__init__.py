"""Files: written whole or not at all; what others wrote, read with types and bounds."""
