"""Video: decoding, clip sampling, datasets, classifiers and prediction."""
