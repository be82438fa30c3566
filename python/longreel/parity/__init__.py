"""Whether two ways of computing the same thing agree."""
