"""Networks from files."""

from kilograd.frontend.attribution import Attribution, attribution
from kilograd.frontend.find import (
    USUAL_MODELS,
    Found,
    available_models,
    is_model,
    load_model,
    load_sizes,
    model_places,
    usual_model,
)
from kilograd.frontend.model_folder import COSINE_SCALE, Model, load_model_folder
from kilograd.frontend.preprocess import Arrays, Images, Normalised, Preprocess
from kilograd.frontend.published import PUBLISHED, Published
from kilograd.frontend.pulled import pull
from kilograd.frontend.resize import image_sizes, resized
from kilograd.frontend.save import copy_model, save_model
from kilograd.frontend.variant import with_classifier, with_last_conv

__all__ = [
    "COSINE_SCALE",
    "PUBLISHED",
    "USUAL_MODELS",
    "Arrays",
    "Attribution",
    "Found",
    "Images",
    "Model",
    "Normalised",
    "Preprocess",
    "Published",
    "attribution",
    "available_models",
    "copy_model",
    "image_sizes",
    "is_model",
    "load_model",
    "load_model_folder",
    "load_sizes",
    "model_places",
    "pull",
    "resized",
    "save_model",
    "usual_model",
    "with_classifier",
    "with_last_conv",
]
