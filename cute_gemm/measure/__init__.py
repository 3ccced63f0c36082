"""What `bench`, `tune` and `cli` stand on; it knows none of them.

- What is measured: `shapes`, `work` (operations and bytes of a shape, group draws), `cases` (operands and the
  judge of their product), `quantizing` (the same of quantisers), `calls` (ways to compute it).
- How: `cold` and `clocks` time one operation or several, `timers` are what a command times a regime with;
  `layers` are calls one behind the other.
- What is kept: `records` (JSON lines), `origin` (versions, device, date), `statistics`.
- What commands share: `arguments`, `errors`, `device`, `console`, `progress`.
"""
