"""The arena: blind battles, votes, leaderboards, judges. No torch."""
