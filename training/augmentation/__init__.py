"""More training rows from those that are there: noise, substituted words, translations. Never for evaluation."""
