"""Few-shot learning over the public API: data sets, episodes, prototypes, fine-tuning."""
