"""`deepintuit split`: one label of a published classifier becomes several."""
