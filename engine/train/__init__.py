"""Training: staged Parquet -> batches -> epochs on Ray Train -> weights and fitted scores."""
