"""Routes, and what stands behind them: providers, fallbacks, keys, budgets, the ledger. Loads neither torch nor the engine."""
