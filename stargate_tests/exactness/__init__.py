"""Order and exactness: random trials of a real server, and a checker that knows what was sent."""
