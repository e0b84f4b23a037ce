"""Where the CUDA kernels can run: on this machine's CPU, their source compiled as C++, and on its GPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ptycho_bluesky.reconstruction.kernels._cuda import CudaWaves
from ptycho_bluesky.reconstruction.kernels._launch import Argument, Launcher, cupy_launcher, source

HERE = Path(__file__).parent


class HostLauncher:
    """Runs kernels on the CPU by way of host_shim.h."""

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch

    def __call__(self, kernel: str, blocks: int, *arguments: Argument) -> None:
        held = [self._value(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        assert self._launch(kernel.encode(), ctypes.c_uint(blocks), addresses) == 0, f"no kernel {kernel}"

    @staticmethod
    def _value(argument: Argument) -> ctypes._SimpleCData:
        if isinstance(argument, torch.Tensor):
            assert argument.is_contiguous() and argument.device.type == "cpu" and not argument.is_conj()
            return ctypes.c_void_p(argument.data_ptr())
        if argument is None:
            return ctypes.c_void_p(None)
        return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int(argument)


@pytest.fixture(scope="session")
def host_launch(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: the CUDA kernels cannot be compiled for the CPU")
    folder = tmp_path_factory.mktemp("kernels")
    names = re.findall(r'extern "C" __global__ void (\w+)\(', source())
    cases = "".join(
        f'    if (!std::strcmp(name, "{name}")) return run({name}, blocks, arguments), 0;\n' for name in names
    )
    (folder / "waves.cu").write_text(source())
    (folder / "host.cpp").write_text(
        '#include "host_shim.h"\n#include "waves.cu"\n'
        f'extern "C" int launch(const char *name, unsigned blocks, void **arguments) {{\n{cases}    return 1;\n}}\n'
    )
    command = [compiler, "-O2", "-shared", "-fPIC", "-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    command += [f"-I{HERE}", f"-I{folder}", str(folder / "host.cpp"), "-o", str(folder / "host.so")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return HostLauncher(folder / "host.so")


@pytest.fixture(scope="session", params=["host", pytest.param("cuda", marks=pytest.mark.hardware)])
def cuda_waves(request: pytest.FixtureRequest):
    """Return a function from a transfer function to CudaWaves, on the CPU and, where there is one, on the GPU."""
    if request.param == "host":
        device, launch = torch.device("cpu"), request.getfixturevalue("host_launch")
    else:
        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device")
        pytest.importorskip("cupy", reason="CuPy is not installed (extras cuda12, cuda13)")
        device = torch.device("cuda")
        launch = cupy_launcher(device)
        assert launch is not None
    return lambda transfer: CudaWaves(device, transfer.to(device), launch)
