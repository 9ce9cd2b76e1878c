"""HTTP in, journal out: takes Desk's callbacks, keeps them durably, and acknowledges."""
