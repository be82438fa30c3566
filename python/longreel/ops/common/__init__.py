"""What the ops share: calls, checks, costs."""
