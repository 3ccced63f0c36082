"""What is behind `cute-gemm tune`: times candidates where they will run, and keeps the best of each problem.

- `tasks` says which problems shapes or a model's layers make, and which configurations are worth timing at
  each.
- `calls` makes operands and checks every candidate's result, `picking` times them and picks one.
- :mod:`cute_gemm.plan.tuned` keeps what was picked, and has it asked before the cost model.
"""
