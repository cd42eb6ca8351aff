"""Triton without a GPU: kernels are specialised as always, nothing is compiled, and launches are recorded."""

import itertools
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.compiler.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from lightning_kernels.common import private_triton

_METADATA = {
    "global_scratch_size": 0, "global_scratch_align": 1, "profile_scratch_size": 0,
    "profile_scratch_align": 1, "launch_cooperative_grid": False, "launch_pdl": False, "num_ctas": 1,
}  # fmt: skip
STREAM = 77


class Recorder:
    """What would have reached the driver; `launches` are (function, grid, stream, flags, arguments)."""

    def __init__(self, monkeypatch):
        self.launches = []
        self._functions = itertools.count(1)
        self.metadata = dict(_METADATA)
        utils = SimpleNamespace(
            launch=self._launch_37,
            build_signature_metadata=lambda types: repr(list(types)).encode(),
            fill_tma_descriptor=lambda *described: ("box", *described),
            fill_tma_descriptor_tiled=lambda *described: ("box", *described),
        )
        driver = SimpleNamespace(
            utils=utils, get_current_device=lambda: 0, get_current_stream=lambda _: STREAM,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )  # fmt: skip
        monkeypatch.setattr(triton.runtime.driver, "_active", driver)
        if private_triton.version == "3.6":
            module = SimpleNamespace(launch=self._launch_36)
            monkeypatch.setattr(nvidia, "compile_module_from_src", lambda **_: module)
            for name in ("library_dirs", "libcuda_dirs"):
                monkeypatch.setattr(nvidia, name, list)
        else:
            monkeypatch.setattr(nvidia, "PyKernelArg", lambda **described: described)

    def take(self):
        """Return the launches since the last time."""
        taken, self.launches[:] = list(self.launches), []
        return taken

    def _launch_36(self, x, y, z, stream, function, cooperative, dependent, scratch, profile, metadata,
                   launch_metadata, enter, leave, *arguments):  # fmt: skip
        self._record((x, y, z), stream, function, (cooperative, dependent, scratch, profile, metadata),
                     (launch_metadata, enter, leave), arguments)  # fmt: skip

    def _launch_37(self, x, y, z, stream, function, cooperative, dependent, metadata, launch_metadata, enter,
                   leave, scratch, profile, annotations, signature, arguments):  # fmt: skip
        flags = (cooperative, dependent, scratch, profile, metadata, str(annotations), signature)
        self._record((x, y, z), stream, function, flags, (launch_metadata, enter, leave), tuple(arguments))

    def _record(self, grid, stream, function, flags, hooks, arguments):
        launch_metadata, enter, leave = hooks
        for hook in (enter, leave):
            if hook is not None:
                hook(launch_metadata)
        plain = [("at", x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
        self.launches.append((function, grid, stream, flags, plain))

    def kernel(self, plain):
        """Return the kernel of an interpreted or compiled one whose launches are recorded."""
        recorder = self

        class Compiled(CompiledKernel):
            def __init__(self, src, options):
                self.metadata = SimpleNamespace(**recorder.metadata, num_warps=options["num_warps"], shared=0)
                self.packed_metadata = (options["num_warps"], 1, 0)
                self.src, self.name, self.function = src, src.name, next(recorder._functions)
                self.hash, self.module, self._run = str(self.function), None, None

            def _init_handles(self):
                if self._run is None:
                    self._run = nvidia.CudaLauncher(self.src, self.metadata)

        compiled = isinstance(plain, JITFunction)

        class Recorded(type(plain) if compiled else JITFunction):
            def create_binder(self):
                result = super().create_binder()
                self.compile = lambda src, target, options: Compiled(src, options)
                return result

        names = "do_not_specialize", "do_not_specialize_on_alignment"
        options = vars(plain) if compiled else plain.kwargs
        return Recorded(plain.fn, **{name: options.get(name) for name in names})

    def compared(self, monkeypatch, *modules):
        """Let each launch past triton be followed by the same through triton, and compare what is sent.

        Returns a list with one entry per launch past triton.
        """
        past = []

        def direct_launch(jit, options, kernel, grid, device):
            launch = private_triton.direct_launch(jit, options, kernel, grid, device)

            def both(*arguments):
                self.take()
                launch(*arguments)
                jit[grid](*arguments, **options)
                one, other = self.take()
                assert one == other
                past.append(one)

            return both

        for module in modules:
            monkeypatch.setattr(module, "direct_launch", direct_launch)
        return past
