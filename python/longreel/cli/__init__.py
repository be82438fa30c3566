"""The `longreel` command."""
