"""What `longreel.patch` replaces, row by row: a file an op, each knowing modules by the names that their libraries give them."""

from longreel.integrations.patches import pools, qformer, token_generation, voco

TABLE = (qformer.ROW, token_generation.ROW, *pools.ROWS, voco.ROW)
