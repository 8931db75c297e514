"""From use to a better model: votes, training on them, proof, promotion, and the way back."""
