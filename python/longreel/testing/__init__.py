"""What the tests stand on, for users' own kernels too: error budgets, NaN poison, determinism, 64-bit offsets."""

from longreel.testing._poison import poison
from longreel.testing.budget import Errors, allowed, check, errors
from longreel.testing.determinism import assert_deterministic
from longreel.testing.offsets import far, hour

__all__ = ["Errors", "allowed", "assert_deterministic", "check", "errors", "far", "hour", "poison"]
