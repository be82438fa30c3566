"""The ops by name: all that `longreel.ops` has imported. The contract test, the benchmarks, `explain` and `longreel doctor` are
driven from here."""

from longreel.ops.op import OPS as OPS
