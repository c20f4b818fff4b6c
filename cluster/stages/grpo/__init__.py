"""Stage of GRPO: its order (stage), one step of it (step), groups by place, figures."""
