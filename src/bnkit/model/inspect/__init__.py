"""Look at a model: trace it, find its batch norms. Changes nothing."""
