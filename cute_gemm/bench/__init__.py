"""What is behind `cute-gemm bench`: times our operations and peers', checks every result, keeps JSON lines.

- `suite` says what is to be measured, `run` measures it beside `peers`, `rows` makes the lines that are kept,
  `shares` what lines of quantisers have beside times; `resume` goes on with a run that was cut off.
- What becomes of lines needs no GPU: `results` finds them, `comparison` sets them beside DeepGEMM's or the
  figures that `published` brings, `tables`, `plots`, and `changes` between two runs.
"""
