"""Images with labels, few-shot tasks drawn from them, and the network input they become.

Begin with `load_dataset`, which chooses the reader of a file or folder, and `Dataset`, which all
readers return.  `Draw` makes an `Episode` of it: one task, with images to learn from and to be
tested on.  `prepare` turns an image into network input, and `augmented` gives random views of that.
"""

from kilograd.data.augment import Augment, augmented
from kilograd.data.dataset import Dataset
from kilograd.data.digits import load_digits
from kilograd.data.draw import Draw, EpisodeKind, sample_episode, sample_meta_episode
from kilograd.data.episode import Episode, check_episode, read_episodes, stored_episode
from kilograd.data.load import load_dataset, load_samples
from kilograd.data.overlap import shared_classes
from kilograd.data.pixels import Source, prepare, upright
from kilograd.data.pools import usable_classes
from kilograd.data.whole import sample_whole
from kilograd.data.wrapped import wrap_dataset

__all__ = [
    "Augment",
    "Dataset",
    "Draw",
    "Episode",
    "EpisodeKind",
    "Source",
    "augmented",
    "check_episode",
    "load_dataset",
    "load_digits",
    "load_samples",
    "prepare",
    "read_episodes",
    "sample_episode",
    "sample_meta_episode",
    "sample_whole",
    "shared_classes",
    "stored_episode",
    "upright",
    "usable_classes",
    "wrap_dataset",
]
