"""What a run would do and cost, without starting anything."""
