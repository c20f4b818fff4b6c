"""Write traces: samples, prompts, the vLLM engine, the worker."""
