"""The policy as the learner holds it: parts that train, LoRA, token head, embeddings."""
