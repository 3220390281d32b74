"""The networks of *On-Device Training Under 256KB Memory*, and where their authors have them.

Kilograd does not distribute them: `kilograd pull` fetches them from their authors.
"""

from __future__ import annotations

from dataclasses import dataclass

REPOSITORY = "https://github.com/mit-han-lab/tiny-training"
COMMIT = "7bf8e05bbeebda76cbf2ea2dd596dedee7e3f343"
FOLDER = "algorithm/assets/mcu_models"
FILES = f"https://raw.githubusercontent.com/mit-han-lab/tiny-training/{COMMIT}/{FOLDER}"


@dataclass(frozen=True)
class Published:
    """A network and its file there.

    `sha256`: of the file.  `fingerprint`: of the network that is made of it.  `top1`: accuracy on
    ImageNet in percent, as its authors state it.
    """

    name: str
    title: str
    sha256: str
    fingerprint: str
    top1: float

    @property
    def file(self) -> str:
        """Its name there."""
        return f"{self.name}.pkl"

    def provenance(self) -> dict[str, object]:
        """Return what `graph.json` says of where it comes from."""
        return {
            "spdx": "MIT",
            "copyright": "Copyright (c) 2022 MIT HAN Lab",
            "licence_file": LICENSE_FILE,
            "source_repository": REPOSITORY,
            "source_commit": COMMIT,
            "source_file": f"{FOLDER}/{self.file}",
            "source_sha256": self.sha256,
            "paper": "Lin, Zhu, Chen, Wang, Gan, Han: On-Device Training Under 256KB Memory, "
            "NeurIPS 2022, arXiv:2206.15472",
            "training_data": "ImageNet-1k (ILSVRC 2012), 1000 classes; int8 post-training "
            "quantisation by the authors",
            "changes": "re-packed from pickle to safetensors and JSON; model.safetensors has the "
            "published numbers, in model-sanitised.safetensors channels whose scales are out of "
            "proportion are written anew",
            "imagenet_top1_stated_by_authors_percent": self.top1,
        }


PUBLISHED = {
    network.name: network
    for network in (
        Published(
            "mcunet-5fps",
            "MCUNet (TinyNAS), 5 FPS model",
            "4de2e06ed39041fc3609de806461a9e1d1f82f186927474bd9e9b0de756a0f00",
            "1634e120a55af51adc446cb6ba914eddc76ee53290411e34bea418c667f26751",
            54.1,
        ),
        Published(
            "mbv2-w0.35",
            "MobileNetV2, width 0.35",
            "310d2871c50a89af9f11928e28418729984c2e402cf68560a19b6cbb75854163",
            "2a47678894761b111e154f290c785699ec96b2b086fc994dbc681888f5e9f336",
            45.7,
        ),
        Published(
            "proxyless-w0.3",
            "ProxylessNAS-mobile, width 0.3",
            "0da06d029506a36e5a5d0822493cdae11f37ba78662f9aca25ba5b3c958cf8e1",
            "7c0972af78ea43bfb5bf9e23cd3c1da705a887ad6b2d404de01345137c92d3cb",
            48.3,
        ),
    )
}
"""By name."""

LICENSE_FILE = "LICENSE"

LICENSE = """\
MIT License

Copyright (c) 2022 MIT HAN Lab

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
"""What the authors ask to travel with copies."""
