"""Classical models, fitted in closed form or by EM through well-kept libraries."""
