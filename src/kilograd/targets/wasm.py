"""WebAssembly: a module without imports, run by wasmtime.

A module has one linear memory, and constants lie in it too.  What a board would keep in RAM (the
stack, the state, the arena) must fit into 4 pages; constants come on top, and the device looks
after every call that nobody wrote to them.  The memory cannot grow.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.emit import Program
from kilograd.emit.build import Sources, spaced
from kilograd.emit.project import write_project
from kilograd.emit.wasm import BUILDING, wasm_exports, write_wasm_files
from kilograd.extras import Extra
from kilograd.ir import Array
from kilograd.targets.cache import cached, workplace
from kilograd.targets.target import Device, Sizes, Target
from kilograd.targets.toolchain import digest, runtime_folder, zig

_STACK = 4096
_PAINT = 0xC5
_FUEL = 1 << 62

#: The linker puts the stack first, so that one that overflows leaves the memory and traps.
_FLAGS = ("-target", "wasm32-freestanding", "-O3", "-g0", "-s")
_LINK = ("-Wl,--no-entry", f"-Wl,-z,stack-size={_STACK}")


@dataclass(frozen=True, kw_only=True)
class Wasm(Target):
    """32-bit WebAssembly."""

    @property
    def tools(self) -> str:
        return "clang, wasmtime"

    @property
    def make(self) -> str:
        return "make -f wasm.mk"

    def building(self, ram: int | None) -> str:
        return BUILDING

    def load(self, program: Program, ram: int | None) -> WasmDevice:
        return WasmDevice(program, _build_module(program, self))

    def write_start(
        self, program: Program, folder: Path, sources: Sources, ram: int | None
    ) -> None:
        write_wasm_files(program, folder, sources.target)


def _build_module(program: Program, target: Wasm) -> Path:
    """Compile a program into a module, or find it compiled."""
    compiler = zig(target.name, _FLAGS)
    with workplace() as folder:
        files = write_project(program, folder, runtime_folder(), target.variant)
        write_wasm_files(program, folder, spaced(files))
        texts = [p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()]

        def make(build: Path) -> None:
            includes = ("-I.", "-Iruntime/include", "-Iruntime/freestanding")
            # wasm.c first: what it reserves is then where the writable part begins
            sources = ("wasm.c", *map(str, files))
            link = (*_LINK, *wasm_exports(program))
            compiler.compile(folder, *includes, *sources, *link, "-o", str(build / "model.wasm"))

        name = f"module-{digest(compiler.fingerprint, *_LINK, *texts)}"
        return cached(name, make) / "model.wasm"


class WasmDevice(Device):
    """A program in wasmtime, which counts the operations that it executes.

    `stack_bytes` is the stack in linear memory.  Most locals and all return addresses are kept
    by the engine, where a module cannot see them: there is no bound to compare with.
    """

    stack_bound = None

    def __init__(self, program: Program, module: Path) -> None:
        wasmtime = Extra.EMULATE.load("wasmtime", "running wasm32")
        config = wasmtime.Config()
        config.consume_fuel = True
        engine = wasmtime.Engine(config)
        compiled = wasmtime.Module.from_file(engine, str(module))
        self._store: Any = wasmtime.Store(engine)
        self._store.set_fuel(_FUEL)
        self._image: Array | None = None
        number = wasmtime.ValType.i32()
        kind = wasmtime.FuncType([number] * 3, [])
        imports = [wasmtime.Func(self._store, kind, self._read_row) for _ in compiled.imports]
        self._exports: Any = wasmtime.Instance(self._store, compiled, imports).exports(self._store)
        memory = self._whole = self._memory()
        self._store.set_limits(memory_size=len(memory))
        blocks = ("state", "arena", "camera") if imports else ("state", "arena")
        self._at = {b: self._exports[f"model_{b}"](self._store) for b in blocks}
        state, arena = self._at["state"], self._at["arena"]
        end = self._exports["__data_end"].value(self._store)
        self._stack = memory[:_STACK]
        self._constants = memory[_STACK : min(state, arena)]
        self._expected = self._constants.tobytes()
        self.sizes = Sizes(module.stat().st_size, end - min(state, arena))
        super().__init__(
            program,
            memory[state : state + max(program.state_bytes, 4)],
            memory[arena : arena + max(program.arena_bytes, 4)],
        )

    def _memory(self) -> Array:
        """Return a view of the linear memory: it never grows, so it never moves."""
        memory = self._exports["memory"]
        size = memory.data_len(self._store)
        at = ctypes.addressof(memory.data_ptr(self._store).contents)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(at), np.uint8)

    def _read_row(self, context: int, row: int, to: int) -> None:
        """Give the module a row of the image: what its camera is here."""
        assert self._image is not None  # noqa: S101 only entry points ask
        data = self._image[row].reshape(-1).view(np.uint8)
        self._whole[to : to + len(data)] = data

    def status(self, function: str, *images: Array) -> int:
        self._image = next((np.ascontiguousarray(x, np.int8) for x in images), None)
        self._stack[:] = _PAINT
        before = self._store.get_fuel()
        blocks = tuple(self._at.values())
        arguments = blocks[:1] if function == "init" else blocks[: 2 + len(images)]
        status = self._exports[f"model_{function}"](self._store, *arguments)
        self.instructions = before - self._store.get_fuel()
        if self._constants.tobytes() != self._expected:
            raise RuntimeError(f"model_{function} wrote to constants: a defect of kilograd")
        touched = np.flatnonzero(self._stack != _PAINT)
        used = _STACK - int(touched[0]) if len(touched) else 0
        self.stack_bytes = max(self.stack_bytes, used)
        return int(status)
