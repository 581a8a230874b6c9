"""What this host holds: names, locks, records, pins, space, and the plan of what goes."""
