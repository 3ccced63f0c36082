"""What `bench`, `tune` and `cli` stand on: timers, data sheets, records, statistics, arguments."""
