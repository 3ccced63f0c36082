"""What is behind `cute-gemm bench`: times our operations and peers', checks every result, keeps JSON lines.

- `suite` says what is to be measured, `run` measures it: `cases` hold operands, `peers`
  say what else multiplies them, `timers` time it, `work.measurement` makes the rows, which `records` keeps.
- What becomes of rows needs no GPU: `comparison` with the figures that `published` brings, `tables`,
  `plots`, and `changes` between two runs.
"""


class BenchError(ValueError):
    """What was asked for cannot be done; the message says what, and why not."""
