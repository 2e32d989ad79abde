"""Images for training and validation: one Loader protocol, three loaders (DALI, resident, synthetic)."""
