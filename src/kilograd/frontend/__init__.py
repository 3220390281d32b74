"""Networks from files."""

from kilograd.frontend.model_folder import Model, Preprocess, load_model_folder

__all__ = ["Model", "Preprocess", "load_model_folder"]
