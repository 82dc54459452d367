"""Consensus Monte Carlo: maps dealt to shards, a sub-posterior of each, combined, checked and verified."""
