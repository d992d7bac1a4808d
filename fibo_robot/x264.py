"""x264's options with which the same pictures become the same file, in every process.

With AVX-512, x264 as PyAV 18.1's wheel contains it gives other bytes from one call to the next: what lay in
memory before decides where it spends bits. Its SSE2 code gives the bytes of its plain C code, as fast for
small pictures.
"""

import platform

_ON_X86 = platform.machine().lower() in {"x86_64", "amd64"}
REPEATABLE_X264: dict[str, str] = {"x264-params": "asm=sse2"} if _ON_X86 else {}
