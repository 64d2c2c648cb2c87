"""Models whose likelihood is exact: flows and autoregressive models."""
