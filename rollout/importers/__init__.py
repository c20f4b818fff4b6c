"""Other people's data -> our manifest: one module per format, one flow behind them."""
