"""`kilograd pull`: published networks, from a server or a copy at hand, and what may go wrong."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Run, model_path, needs_shared
from published import archive, archive_of, cfg_of, small_cfg
from safetensors.numpy import load_file

import kilograd
from kilograd.errors import InputError
from kilograd.frontend import PUBLISHED, load_model_folder, pulled
from kilograd.frontend.fetch import _SameProtocol
from kilograd.frontend.pickled import Stored, read_archive
from kilograd.frontend.published import FILES, LICENSE
from kilograd.frontend.tiny_training import read_network
from kilograd.ir import fingerprint

NAME = "mcunet-5fps"
HOLDS = ["LICENSE", "graph.json", "model-sanitised.safetensors", "model.safetensors"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of networks, which is not there yet."""
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture(scope="module")
def small() -> bytes:
    return archive(small_cfg())


@pytest.fixture
def published(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file of a small network, as if it were that of mcunet-5fps."""
    monkeypatch.setattr(pulled, "fingerprint", lambda graph: PUBLISHED[NAME].fingerprint)
    expect(monkeypatch, NAME, small)
    return small


def expect(monkeypatch: pytest.MonkeyPatch, name: str, data: bytes) -> None:
    """Let a file be the one that was published."""
    network = replace(PUBLISHED[name], sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(PUBLISHED, name, network)


# ---- what comes of it ----


@needs_shared
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_come_back_bit_for_bit(
    name: str, protocol: int, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others made of the authors' file: the tensors, and those without lost channels."""
    folder = model_path(name)
    data = archive(cfg_of(folder), protocol)
    expect(monkeypatch, name, data)
    (tmp_path / "file").write_bytes(data)
    found = kilograd.pull(name, from_=tmp_path / "file")
    assert found == own / name
    assert sorted(p.name for p in found.iterdir()) == HOLDS
    for file in ("model.safetensors", "model-sanitised.safetensors"):
        wanted, tensors = load_file(folder / file), load_file(found / file)
        kinds = (".weight", ".bias", ".weight_scale")
        assert tensors.keys() == {n for n in wanted if n.endswith(kinds)}
        for tensor, value in tensors.items():
            np.testing.assert_array_equal(value, wanted[tensor], strict=True)
    model, other = load_model_folder(found), load_model_folder(folder)
    assert (model.name, model.title, model.layers) == (other.name, other.title, other.layers)
    assert model.preprocess == other.preprocess
    assert fingerprint(model.graph) == fingerprint(other.graph) == PUBLISHED[name].fingerprint


@needs_shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_said_of_a_network_is_what_others_say(name: str) -> None:
    stated = json.loads((model_path(name) / "graph.json").read_text())["provenance"]
    ours = PUBLISHED[name].provenance()
    assert {k: ours[k] for k in stated if k != "changes"} == {
        k: v for k, v in stated.items() if k != "changes"
    }
    licence = model_path(name).parent / "LICENSE-mit-han-lab-tiny-training.txt"
    assert licence.read_text() == LICENSE


def test_small_network_is_what_its_file_says(published: bytes, own: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.pkl").write_bytes(published)
    found = kilograd.pull(NAME, from_=tmp_path)
    cfg, tensors = small_cfg(), load_file(found / "model.safetensors")
    for name, conv in {
        "first_conv": cfg["first_conv"],
        "blocks.0.dw": cfg["blocks"][0]["depthwise"],
        "blocks.2.pw1": cfg["blocks"][2]["pointwise1"],
        "blocks.2.pw2": cfg["blocks"][2]["pointwise2"],
    }.items():
        for key, tensor in (("weight", "weight"), ("bias", "bias"), ("w_scales", "weight_scale")):
            np.testing.assert_array_equal(tensors[f"{name}.{tensor}"], conv["params"][key])
    model = load_model_folder(found)
    assert [str(n.op).partition("(")[0] for n in model.graph.nodes if n.inputs] == [
        *("Conv", "Depthwise", "Conv", "Conv", "Depthwise", "Conv", "Conv", "Depthwise", "Conv"),
        *("Add", "AvgPool", "Conv"),
    ]
    assert model.graph["blocks.1.dw"].type.shape == (32, 32, 12)
    assert "Copyright (c) 2022 MIT HAN Lab" in (found / "LICENSE").read_text()


def test_lost_channel_is_written_anew_and_makes_the_same(
    published: bytes, own: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.pkl").write_bytes(published)
    found = kilograd.pull(NAME, from_=tmp_path)
    before = load_file(found / "model.safetensors")
    after = load_file(found / "model-sanitised.safetensors")
    changed = [n for n in before if not np.array_equal(before[n], after[n])]
    assert sorted(changed) == [f"first_conv.{n}" for n in ("bias", "weight", "weight_scale")]
    rest = np.arange(8) != 5
    for name in changed:
        np.testing.assert_array_equal(before[name][rest], after[name][rest])
    assert after["first_conv.weight_scale"][5] == np.median(before["first_conv.weight_scale"])
    load_model_folder(found)  # which would refuse sums that overflow
    real = float(after["first_conv.weight_scale"][5]) * int(after["first_conv.bias"][5]) * 2 / 255
    assert real == pytest.approx(5e-8 * -(2**31) * 2 / 255, abs=0.005)


# ---- twice, and where something lies already ----


def test_what_is_there_stays(
    run: Run, published: bytes, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.pkl").write_bytes(published)
    done = run("pull", NAME, "--from", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert f"{NAME} lies in {own / NAME}" in done.out
    before = {p.name: p.stat().st_mtime_ns for p in (own / NAME).iterdir()}
    again = run("pull", NAME, "--from", tmp_path / "nowhere", "--json")
    assert again.json == {"name": NAME, "path": str(own / NAME)}
    assert {p.name: p.stat().st_mtime_ns for p in (own / NAME).iterdir()} == before
    rows = {row["name"]: row["origin"] for row in run("models", "--json").json["models"]}
    assert rows[NAME] == "yours"


def test_damaged_network_is_made_anew(published: bytes, own: Path, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.pkl").write_bytes(published)
    folder = kilograd.pull(NAME, from_=tmp_path)
    whole = (folder / "model-sanitised.safetensors").read_bytes()
    (folder / "model-sanitised.safetensors").write_bytes(whole[:100])
    assert kilograd.pull(NAME, from_=tmp_path) == folder
    assert (folder / "model-sanitised.safetensors").read_bytes() == whole


@pytest.mark.parametrize("what", ["file", "folder", "network"])
def test_what_is_not_ours_is_not_replaced(
    what: str, published: bytes, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.pkl").write_bytes(published)
    place = own / NAME
    if what == "network":
        kilograd.pull(NAME, from_=tmp_path)
        monkeypatch.setattr(pulled, "fingerprint", lambda graph: "of another one")
    elif what == "file":
        own.mkdir()
        place.write_text("mine")
    else:
        place.mkdir(parents=True)
        (place / "thesis.txt").write_text("mine")
    before = sorted(map(str, own.rglob("*")))
    with pytest.raises(InputError, match="set KILOGRAD_MODELS to another folder"):
        kilograd.pull(NAME, from_=tmp_path)
    assert sorted(map(str, own.rglob("*"))) == before


# ---- a copy at hand ----


def test_copy_in_a_checkout(published: bytes, own: Path, tmp_path: Path) -> None:
    place = tmp_path / "tiny-training" / "algorithm" / "assets" / "mcu_models"
    place.mkdir(parents=True)
    (place / f"{NAME}.pkl").write_bytes(published)
    assert kilograd.pull(NAME, from_=tmp_path / "tiny-training") == own / NAME


def test_copy_that_is_none(run: Run, published: bytes, own: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other.pkl"
    other.write_bytes(published + b"\0")
    found = hashlib.sha256(other.read_bytes()).hexdigest()
    os.mkfifo(tmp_path / "pipe")
    wanted = PUBLISHED[NAME].sha256
    for source, message in (
        ("empty", f"holds no {NAME}.pkl; give that file, a folder in which it lies"),
        ("nowhere", f"holds no {NAME}.pkl"),
        (
            "other.pkl",
            f"its sha256 is {found}, not {wanted}",
        ),
        ("pipe", "is no file; give a regular one"),
    ):
        assert message in run("pull", NAME, "--from", tmp_path / source).error
    with other.open("wb") as file:
        file.truncate(1 << 30)
    assert "is larger than 16,777,216 bytes" in run("pull", NAME, "--from", other).error
    assert not list(own.glob("*"))


def test_checksum_comes_before_reading(
    published: bytes, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulled, "read_archive", lambda *_: pytest.fail("read all the same"))
    (tmp_path / "file").write_bytes(published + b"\0")
    with pytest.raises(InputError, match="is not the published"):
        kilograd.pull(NAME, from_=tmp_path / "file")


def test_names(run: Run, own: Path) -> None:
    error = run("pull", "mcunet").error
    assert (
        error == f"mcunet: cannot be pulled; did you mean {NAME}? There are {', '.join(PUBLISHED)}"
    )
    assert "cannot be pulled; there are mcunet-5fps, " in run("pull", "../../etc").error
    error = run("plan", "--model", NAME).error
    assert error.startswith(f"--model {NAME!r}: is not here yet; kilograd pull {NAME} fetches it")
    error = run("plan", "--model", "mcunet5fps").error
    assert f"did you mean {NAME}?" in error
    assert "kilograd pull fetches mcunet-5fps, mbv2-w0.35, proxyless-w0.3" in error
    assert run("models", "--json").json["to_pull"] == list(PUBLISHED)
    assert "kilograd pull proxyless-w0.3" in run("models").out


def test_network_in_the_place_of_data(run: Run, own: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for words in ((NAME, tmp_path / "photos"), (tmp_path / "photos", NAME)):
        error = run("adapt", *words).error
        assert error.endswith(f"; {NAME} is a network: give it as --model {NAME}")
    error = run("adapt", NAME).error
    assert error.startswith(
        f"{NAME}: is a network, not data; give it as --model {NAME}, and in its "
    )
    assert "is a network" not in run("adapt", "photos", "nonsense", "--model", NAME).error


# ---- from a server ----


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def serve(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Answer], http.server.ThreadingHTTPServer]]:
    """Answer requests for published networks in some way."""
    started: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Answer) -> http.server.ThreadingHTTPServer:
        class Handler(http.server.BaseHTTPRequestHandler):
            do_GET = answer  # noqa: N815 the name that the library wants

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(pulled, "FILES", f"http://127.0.0.1:{server.server_port}/models")
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def sends(data: bytes, status: int = 200, **headers: object) -> Answer:
    """Answer with data, as long as it is unless a header says otherwise."""
    told = {"Content-Length": len(data)} | {k.replace("_", "-"): v for k, v in headers.items()}

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in told.items():
            if value is not None:
                request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(data)

    return answer


def test_pulled_from_a_server(run: Run, published: bytes, serve: Any, own: Path) -> None:
    asked: list[str] = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        sends(published)(request)

    serve(answer)
    assert run("pull", NAME).code == 0
    assert asked == [f"/models/{NAME}.pkl"]
    assert sorted(p.name for p in (own / NAME).iterdir()) == HOLDS
    assert run("plan", "--model", NAME, "--method", "last:2", "--json").json["sram_bytes"] > 0


def test_redirect_of_the_same_protocol_is_followed(published: bytes, serve: Any, own: Path) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/models"):
            sends(b"", 302, Location="/elsewhere")(request)
        else:
            sends(published)(request)

    serve(answer)
    assert kilograd.pull(NAME) == own / NAME


def endless(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    with suppress(OSError):  # the reader has gone
        while True:
            request.wfile.write(bytes(1 << 16))


def silent(request: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(2)


HOSTILE: Mapping[str, tuple[Answer, str]] = {
    "not found": (sends(b"no", 404), "404 Not Found"),
    "broken": (sends(b"no", 500), "500 Internal Server Error"),
    "a page": (sends(b"<html>sign in"), "is not the published mcunet-5fps.pkl: its sha256 is "),
    "nothing": (sends(b""), "is not the published"),
    "cut short": (sends(b"x" * 10, Content_Length=1000), "it ended after 10 bytes"),
    "huge length": (sends(b"x", Content_Length=1 << 60), "more than 16,777,216 bytes"),
    "no number": (sends(b"x", Content_Length="many"), "invalid literal"),
    "endless": (endless, "more than 16,777,216 bytes"),
    "silent": (silent, "timed out"),
    "to a file": (sends(b"", 302, Location="file:///etc/passwd"), "file:///etc/passwd"),
    "to ftp": (sends(b"", 302, Location="ftp://127.0.0.1/x"), "by another protocol"),
    "to itself": (sends(b"", 302, Location=f"/models/{NAME}.pkl"), "infinite loop"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_servers(
    what: str, run: Run, published: bytes, serve: Any, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, message = HOSTILE[what]
    monkeypatch.setattr("kilograd.frontend.fetch._QUIET", 0.5)
    server = serve(answer)
    error = run("pull", NAME).error
    assert message in error
    assert f"http://127.0.0.1:{server.server_port}/models/{NAME}.pkl: " in error
    assert "give its place with --from" in error
    assert PUBLISHED[NAME].sha256 in error
    assert not list(own.iterdir())


def test_no_redirect_leaves_https(monkeypatch: pytest.MonkeyPatch) -> None:
    request, headers = urllib.request.Request("https://example.org/a"), Message()
    with pytest.raises(OSError, match="another protocol"):
        _SameProtocol().redirect_request(
            request, io.BytesIO(), 302, "", headers, "http://example.org/b"
        )
    assert FILES.startswith("https://")


def test_slow_drip_ends(
    published: bytes, serve: Any, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(bytes(1 << 16))
            time.sleep(0.05)

    monkeypatch.setattr("kilograd.frontend.fetch._PATIENCE", 0.2)
    serve(drip)
    with pytest.raises(InputError, match=r"only [\d,]+ bytes in 0 seconds"):
        kilograd.pull(NAME)


def test_no_network(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(pulled, "FILES", f"http://127.0.0.1:{port}")
    error = run("pull", NAME).error
    assert error.startswith(f"http://127.0.0.1:{port}/{NAME}.pkl: cannot be fetched (Connection")


# ---- places ----


def test_place_that_cannot_be_written(
    run: Run, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out before anything is fetched."""
    monkeypatch.setattr(pulled, "_fetched", lambda *_: pytest.fail("fetched all the same"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path / "file" / "models"))
    error = run("pull", NAME).error
    assert error.startswith(f"{tmp_path / 'file' / 'models' / NAME}: cannot be written (")
    assert "set KILOGRAD_MODELS to a folder of your own" in error


SCRIPT = """
import resource, sys
sys.path.insert(0, {tests!r})
from contextlib import suppress
from dataclasses import replace
from email.message import Message
import kilograd, kilograd.frontend
import kilograd.frontend.pulled as module
network = kilograd.frontend.PUBLISHED[{name!r}]
kilograd.frontend.PUBLISHED[{name!r}] = replace(network, sha256={sha256!r})
module.fingerprint = lambda graph: network.fingerprint
{more}
from kilograd.cli import main
sys.argv = ["kilograd", "pull", {name!r}, *sys.argv[1:]]
main()
"""


def script(data: bytes, more: str = "") -> list[str]:
    """Return a command that pulls, in a process of its own."""
    tests, sha256 = str(Path(__file__).parent), hashlib.sha256(data).hexdigest()
    text = SCRIPT.format(tests=tests, name=NAME, sha256=sha256, more=more)
    return [sys.executable, "-c", text]


def test_full_disk_leaves_nothing(published: bytes, own: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(published)
    limit = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    command = [*script(published, limit), "--from", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{own / NAME}: cannot be written (File too large)" in done.stderr
    assert not list(own.iterdir())


def test_interrupted_leaves_nothing(published: bytes, serve: Any, own: Path) -> None:
    asked = threading.Event()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(published[:1000])
        request.wfile.flush()
        asked.set()
        time.sleep(10)

    server = serve(answer)
    more = f"module.FILES = 'http://127.0.0.1:{server.server_port}'"
    with subprocess.Popen(script(published, more), stderr=subprocess.PIPE, text=True) as process:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("error: interrupted; nothing is half written\n")
    assert not list(own.iterdir())


# ---- the reader ----


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def bad(*words: bytes) -> bytes:
    return archive_of(b"\x80\x02" + b"".join(words))


PICKLES: Mapping[str, tuple[bytes, str]] = {
    "os.system": (archive(Evil(os.system, "touch /tmp/owned")), "posix.system, which is not data"),
    "eval": (archive({"first_conv": Evil(eval, "1")}), "eval, which is not data"),
    "eval, protocol 4": (archive(Evil(eval, "1"), 4), "builtins.eval, which is not data"),
    "getattr": (bad(b"cbuiltins\ngetattr\n."), "builtins.getattr, which is not data"),
    "numpy.load": (bad(b"cnumpy\nload\n."), "numpy.load, which is not data"),
    "an object": (archive(np.random.default_rng(0)), "which is not data"),
    "object array": (archive(np.array([None])), "is called in a way that makes no array"),
    "persistent": (bad(b"U\x01xQ."), "is not for data"),
    "build on a list": (bad(b"]}b."), "nothing to work on"),
    "build on a list with a tuple": (bad(b"])b."), "is given a state"),
    "call of data": (bad(b"])R."), "makes no array"),
    "key that is no text": (archive({1: 2}), "nothing to work on"),
    "empty stack": (bad(b"R."), "nothing to work on"),
    "no mark": (bad(b"t."), "nothing to work on"),
    "memo": (bad(b"h\x07."), "nothing to work on"),
    "two things": (bad(b"NN."), "cannot be read"),
    "nothing": (bad(b"."), "cannot be read"),
    "no end": (bad(b"N"), "cannot be read"),
    "cut": (bad(b"X\xff\xff\xff\x7fab."), "cannot be read"),
    "no pickle": (archive_of(b"\xff" * 50), "cannot be read"),
    "too many steps": (bad(b"N0" * 10 + b"N\x85" * (1 << 20), b"."), "cannot be read"),
    "no zip": (b"PK\x03\x04" + bytes(100), "cannot be read"),
    "a pickle alone": (pickle.dumps({}), "cannot be read"),
    "bomb": (
        archive_of(b"\x80\x02" + b"N0" * (40 << 20) + b"N.", zipfile.ZIP_DEFLATED),
        "unpacked it is larger than 33,554,432 bytes",
    ),
    "a number": (archive(7), "is no network of tiny-training"),
    "deep": (bad(b"]" * 100_000, b"a" * 99_999, b"."), "is no network of tiny-training"),
    "no blocks": (archive({"first_conv": {}}), "is no network of tiny-training"),
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles_that_are_no_network(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, message = PICKLES[what]
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("run all the same"))
    with pytest.raises(InputError) as caught:
        read_network(read_archive(data, "file"), "a", "A", "file")
    assert str(caught.value).startswith("file: ")
    assert message in str(caught.value)


def test_zip_with_two_pickles_or_none() -> None:
    for names in (("a/data.pkl", "b/data.pkl"), ("a/other",), ("../data.pkl", "a/data.pkl")):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as z:
            for name in names:
                z.writestr(name, b"\x80\x02N.")
        with pytest.raises(InputError, match=r"no file of torch\.save"):
            read_archive(file.getvalue(), "file")


CHANGES: Mapping[str, tuple[Callable[[Any], object], str]] = {
    "weights of floats": (
        lambda c: c["first_conv"]["params"].update(weight=np.full((8, 3, 3, 3), 0.5)),
        "first_conv: has numbers that are no int8",
    ),
    "weights beyond int8": (
        lambda c: c["first_conv"]["params"].update(weight=np.full((8, 3, 3, 3), 200)),
        "first_conv: has numbers that are no int8",
    ),
    "another shape": (
        lambda c: c["first_conv"]["params"].update(weight=np.zeros((8, 3, 3, 5), np.int8)),
        "first_conv: has weights of shape (8, 3, 3, 5)",
    ),
    "no dimensions": (
        lambda c: c["first_conv"]["params"].update(weight=np.int8(3)),
        "first_conv: has weights of shape ()",
    ),
    "another scale": (
        lambda c: c["blocks"][1]["depthwise"]["params"].update(x_scale=0.5),
        "blocks.1.dw: reads blocks.1.pw1.out with another scale than it is made with",
    ),
    "two scales": (
        lambda c: c["first_conv"]["params"].update(y_scale=np.ones(2)),
        "first_conv: is 2 numbers, not one",
    ),
    "a list of scales": (
        lambda c: c["first_conv"]["params"].update(y_scale=[1.0]),
        "is no network of tiny-training",
    ),
    "squeeze and excitation": (
        lambda c: c["blocks"][0].update(se={"a": 1}),
        "is no network of tiny-training",
    ),
    "no depthwise": (
        lambda c: c["blocks"][0].update(depthwise=None),
        "is no network of tiny-training",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_arrays_that_are_no_network(what: str) -> None:
    change, message = CHANGES[what]
    cfg = small_cfg()
    change(cfg)
    with pytest.raises(InputError) as caught:
        read_network(read_archive(archive(cfg), "file"), "a", "A", "file")
    assert message in str(caught.value)


def test_what_a_pickle_may_hold() -> None:
    """As Python's own reader reads it."""
    arrays = {
        "a": np.arange(6, dtype=np.int8).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "c": np.array(3.5),
        "d": np.zeros(0, np.int32),
    }
    plain = {"e": np.float64(0.25).item(), "f": [1, None, True, (3, 3), -70000, 1 << 40], "g": "ä"}
    for protocol in (2, 3, 4):
        data = {**arrays, "again": arrays["a"], "h": np.int64(4), **plain}
        found: Any = read_archive(archive(data, protocol), "file")
        assert found["again"] is found["a"]
        assert {k: found[k] for k in plain} == plain
        assert found["h"] == 4
        for name, value in arrays.items():
            stored = found[name]
            assert type(stored) is Stored
            np.testing.assert_array_equal(stored.array, value, strict=True)
