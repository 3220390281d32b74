"""Kernels made for a processor: nobody gets the portable ones in their place unasked."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from devices import needs_emulator
from helpers import (
    ASSERTING,
    assert_same,
    call,
    clang,
    gcc,
    needs_avx2,
    needs_clang,
    needs_gcc,
)
from samples import SAMPLES, cases, hostile_cases

from kilograd import ops
from kilograd.emit import link
from kilograd.emit.build import LANGUAGE
from kilograd.targets import CORTEX_M7
from kilograd.targets.host import _runtime_objects, host_variant
from kilograd.targets.runner import Runner
from kilograd.targets.toolchain import Compiler, runtime_folder, runtime_sources

VARIANTS = runtime_folder() / "variants"
ARM_DSP = sorted((VARIANTS / "arm_dsp").glob("*.c"))
AVX2 = sorted((VARIANTS / "avx2").glob("*.c"))

needs_arm = pytest.mark.skipif(
    not importlib.util.find_spec("ziglang"), reason="needs pip install ziglang"
)
needs_arm_gcc = pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"), reason="needs apt-get install gcc-arm-none-eabi"
)


FREESTANDING = f"-I{runtime_folder() / 'freestanding'}"  # as every program for these processors


def arm_clang(cpu: str, *flags: str, target: str = "thumb") -> Compiler:
    command = (sys.executable, "-m", "ziglang", "cc")
    machine = ("-target", f"{target}-freestanding-eabihf", f"-mcpu={cpu}")
    return Compiler(command, (*LANGUAGE, *machine, FREESTANDING, *flags))


def arm_gcc(cpu: str, *flags: str) -> Compiler:
    return Compiler(("arm-none-eabi-gcc",), (*LANGUAGE, "-mthumb", f"-mcpu={cpu}", *flags))


def preprocess(compiler: Compiler, file: Path, folder: Path) -> None:
    """Read a file as the compiler does, includes and conditions too."""
    include = f"-I{runtime_folder() / 'include'}"
    compiler.compile(folder, include, "-E", str(file), "-o", "out.i")


#: What is missing, and the sentence that says so.
ARM_REFUSALS = [
    pytest.param(
        arm_clang("cortex_m33+fp_armv8d16sp"), "need the DSP extension", id="clang", marks=needs_arm
    ),
    pytest.param(arm_clang("cortex_m3"), "need the DSP extension", id="clang m3", marks=needs_arm),
    pytest.param(
        arm_clang("cortex_a7", target="arm"), "compile with -mthumb", id="arm code", marks=needs_arm
    ),
    pytest.param(arm_gcc("cortex-m3"), "need the DSP extension", id="gcc m3", marks=needs_arm_gcc),
    pytest.param(
        arm_gcc("cortex-m33+nodsp"), "need the DSP extension", id="gcc m33", marks=needs_arm_gcc
    ),
    pytest.param(
        arm_gcc("cortex-m7", "-mno-unaligned-access"),
        "compile without .*-mno-unaligned-access",
        id="aligned only",
        marks=needs_arm_gcc,
    ),
    pytest.param(
        arm_gcc("cortex-m7", "-mbig-endian"),
        "compile without -mbig-endian",
        id="big-endian",
        marks=needs_arm_gcc,
    ),
    pytest.param(gcc("-O2"), "need the DSP extension", id="this machine", marks=needs_gcc),
]


@pytest.mark.parametrize("file", ARM_DSP, ids=lambda p: p.name)
@pytest.mark.parametrize(("compiler", "why"), ARM_REFUSALS)
def test_dsp_kernels_refuse_other_processors(
    tmp_path: Path, compiler: Compiler, why: str, file: Path
) -> None:
    with pytest.raises(RuntimeError, match=f"(?s)error.*kernels of variants/arm_dsp .*{why}"):
        preprocess(compiler, file, tmp_path)


@pytest.mark.parametrize("file", AVX2, ids=lambda p: p.name)
@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(gcc("-O2", "-mno-avx2"), id="gcc", marks=needs_gcc),
        pytest.param(clang("-O2", "-mno-avx2"), id="clang", marks=needs_clang),
    ],
)
def test_avx2_kernels_refuse_other_processors(
    tmp_path: Path, compiler: Compiler, file: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"kernels of variants/avx2 need AVX2: compile with"):
        preprocess(compiler, file, tmp_path)


def test_every_variant_file_is_tried_above_and_has_a_namesake() -> None:
    """A file without one would be a second definition, beside the portable one."""
    assert {p.parent.name for p in VARIANTS.rglob("*.c")} == {"arm_dsp", "avx2"}
    portable = {p.name for p in (runtime_folder() / "src").glob("*.c")}
    assert {p.name for p in VARIANTS.rglob("*.c")} <= portable


@needs_gcc
@needs_avx2
def test_this_machine_has_the_kernels_that_its_compiler_may_use(tmp_path: Path) -> None:
    """Kernels that assert hold the name of the file they come from."""
    assert host_variant(gcc("-O1", "-mavx2"), tmp_path) == "avx2"
    assert host_variant(gcc("-O1", "-mno-avx2"), tmp_path) is None
    for flag, avx2 in (("-mavx2", True), ("-mno-avx2", False)):
        objects = {p.name: p.read_bytes() for p in _runtime_objects(gcc("-O1", flag, ASSERTING))}
        assert objects.keys() == {f"{p.stem}.o" for p in runtime_sources()}
        named = {name for name, data in objects.items() if b"variants/avx2" in data}
        assert named == ({f"{p.stem}.o" for p in AVX2} if avx2 else set())


@needs_gcc
@needs_avx2
def test_gcc_fuses_nothing_in_its_own_dialect(tmp_path: Path) -> None:
    """A build system may say gnu11, which fuses where the processor can: other bits."""

    def fused(*flags: str) -> set[str]:
        compiler = Compiler(gcc().command, ("-std=gnu11", "-O3", "-mfma", *flags))
        for file in runtime_sources():
            include = f"-I{runtime_folder() / 'include'}"
            compiler.compile(tmp_path, include, "-S", str(file), "-o", f"{file.stem}.s")
        return {p.stem for p in tmp_path.glob("*.s") if "vfm" in p.read_text(encoding="utf-8")}

    assert fused() == set()
    assert "kg_update" in fused("-D__STRICT_ANSI__"), "this test can fail"


CONVOLVING = (
    *(ops.Conv, ops.ConvInputGrad, ops.ConvWeightGrad, ops.GroupedConv),
    *(ops.Depthwise, ops.DepthwiseInputGrad, ops.DepthwiseWeightGrad),
    *(ops.Add, ops.ClipMask, ops.Stream),
)


@needs_emulator
def test_kernels_for_cortex_m_equal_their_references_to_the_bit() -> None:
    """Those that have a variant: every sample, of a few cases, in the emulator."""
    samples = [s for s in SAMPLES if isinstance(s.op, CONVOLVING)]
    device = CORTEX_M7.build(link({s.name: s.graph() for s in samples}))
    assert isinstance(device, Runner)
    for sample in samples:
        for case in (cases(sample)[0], *hostile_cases(sample)[:2]):
            assert_same(call(device, sample.name, case.feeds), case.want, str(sample.op))
