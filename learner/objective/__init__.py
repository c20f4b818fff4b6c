"""The objective of GRPO as pure functions: advantages, surrogates, KL, loss."""
