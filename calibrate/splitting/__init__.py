"""Category Splitting: a label of a linear head becomes sub-labels; nothing else is trained."""
